-- KEYS: claim key, start record; of a further effect, which has both to itself, also the first effect's record, which says whose the id is.
-- ARGV: token, fingerprint, epoch, lease ms, record's retention ms.
-- Answers {word, number, number}: fresh + starts | interrupted + starts + crashes | held + ms left | done | conflict.
local owner = redis.call('GET', KEYS[1])
if owner == 'done' then return {'done', 0, 0} end
local record = redis.call('HMGET', KEYS[2], 'fp', 'starts', 'open', 'done', 'last', 'gave', 'epoch', 'before', 'told', 'effect')
local starts, open, last = tonumber(record[2] or 0), tonumber(record[3] or 0), record[5]
-- before: a start of an earlier epoch was left unfinished.
local epoch, before = tonumber(record[7] or 0), record[8]
if record[1] and record[1] ~= ARGV[2] then
  -- effect: a further effect was started and not given back, or has happened.
  if record[4] or open > 0 or before or record[10] then return {'conflict', 0, 0} end
  -- The other fingerprint gave everything back and did nothing: it does not stand in the way.
  redis.call('DEL', KEYS[2])
  starts, open, last, epoch = 0, 0, false, 0
elseif record[4] then
  return {'done', 0, 0}
end
local first = KEYS[3] and redis.call('HMGET', KEYS[3], 'fp', 'open', 'done', 'before', 'effect') or {}
local stranger = first[1] and first[1] ~= ARGV[2]
if stranger and (first[3] or tonumber(first[2] or 0) > 0 or first[4] or first[5]) then return {'conflict', 0, 0} end
if owner and owner ~= ARGV[1] then
  return {'held', math.max(redis.call('PTTL', KEYS[1]), 0), 0}
end
if owner then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[4])
end
-- An operator ordered it anew: it starts afresh, but what was left unfinished may have had its effect.
if tonumber(ARGV[3]) > epoch then
  if open > 0 then before = 1 end
  starts, open, last, epoch = 0, 0, false, tonumber(ARGV[3])
end
-- The last start being our own, its answer was lost: it counts once.
if last ~= ARGV[1] then
  starts, open = starts + 1, open + 1
end
if record[6] == ARGV[1] then redis.call('HDEL', KEYS[2], 'gave') end
redis.call('HSET', KEYS[2], 'fp', ARGV[2], 'starts', starts, 'open', open, 'last', ARGV[1], 'epoch', epoch)
if before then redis.call('HSET', KEYS[2], 'before', 1) end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
if KEYS[3] then
  if stranger then redis.call('DEL', KEYS[3]) end
  redis.call('HSET', KEYS[3], 'fp', ARGV[2], 'effect', first[5] or KEYS[2])
  if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[3], ARGV[5]) end
end
-- told: whoever started last knows that an earlier start may have had its effect.
if open == 1 and not before then
  if record[9] then redis.call('HDEL', KEYS[2], 'told') end
  return {'fresh', starts, 0}
end
redis.call('HSET', KEYS[2], 'told', 1)
return {'interrupted', starts, open - 1}
