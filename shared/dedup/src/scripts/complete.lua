-- KEYS: as for claiming. ARGV: token, fingerprint, epoch (not used), retention ms.
-- Always sets done: the effect happened. Answers 1 when the claim was still ours, and again 1 when the same token asks again; also when it
-- had ended and nobody has claimed since, or who did was told of an unfinished start. 0: somebody may have started without knowing.
local owner = redis.call('GET', KEYS[1])
local record = redis.call('HMGET', KEYS[2], 'last', 'told')
redis.call('SET', KEYS[1], 'done', 'PX', ARGV[4])
redis.call('HSET', KEYS[2], 'fp', ARGV[2], 'open', 0, 'done', 1)
redis.call('HDEL', KEYS[2], 'last', 'gave', 'before')
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if KEYS[3] then
  redis.call('HSET', KEYS[3], 'fp', redis.call('HGET', KEYS[3], 'fp') or ARGV[2], 'effect', 'done')
  if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
end
local told = record[2] and 1 or 0
if owner == 'done' then
  return redis.call('HGET', KEYS[2], 'by') == ARGV[1] and 1 or told
end
if owner == ARGV[1] or record[1] == ARGV[1] then
  redis.call('HSET', KEYS[2], 'by', ARGV[1])
  return 1
end
redis.call('HDEL', KEYS[2], 'by')
return told
