-- KEYS: as for claiming. ARGV: token, fingerprint, epoch (not used), record's retention ms.
-- Compare and delete. Answers 1 when the claim was still ours, and again 1 when the same token asks again.
local owner = redis.call('GET', KEYS[1])
local record = redis.call('HMGET', KEYS[2], 'fp', 'open', 'last', 'gave')
if owner ~= ARGV[1] and record[4] == ARGV[1] then return 1 end
local genuine = record[1] == ARGV[2]
if owner == ARGV[1] then
  redis.call('DEL', KEYS[1])
  if genuine then redis.call('HSET', KEYS[2], 'gave', ARGV[1]) end
end
-- A start whose lease ran out unnoticed is closed as well when nobody has taken over: its owner knows how it ended.
if genuine and record[3] == ARGV[1] and (owner == ARGV[1] or not owner) then
  redis.call('HSET', KEYS[2], 'open', math.max(tonumber(record[2] or 0) - 1, 0))
  redis.call('HDEL', KEYS[2], 'last')
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  -- Nothing of this effect is open: it does not stand in another fingerprint's way any more.
  local left = KEYS[3] and redis.call('HMGET', KEYS[2], 'open', 'before')
  if left and tonumber(left[1]) == 0 and not left[2] and redis.call('HGET', KEYS[3], 'effect') == KEYS[2] then
    redis.call('HDEL', KEYS[3], 'effect')
  end
end
return owner == ARGV[1] and 1 or 0
