-- KEYS: claim key, start record; of a further effect, which has both to itself, also the first effect's record, which says whose the id is.
-- ARGV: token, fingerprint, epoch, lease ms, record's retention ms.
-- Answers 'word number number': fresh + starts | interrupted + starts + crashes | held + ms left | done | conflict.
local owner = redis.call('GET', KEYS[1])
-- Not MGET, for which a value of another type is nothing at all: what cannot be read is an error, never fresh.
local record = read(redis.call('GET', KEYS[2]))
if record.fp and record.fp ~= ARGV[2] then
  -- effect: a further effect was started and not given back, or has happened.
  if record.done or tonumber(record.open or 0) > 0 or record.before or record.effect then return 'conflict 0 0' end
  -- The other fingerprint gave everything back and did nothing: it does not stand in the way.
  redis.call('DEL', KEYS[2])
  record = {}
elseif record.done then
  return 'done 0 0'
end
local first = KEYS[3] and read(redis.call('GET', KEYS[3])) or {}
local stranger = first.fp and first.fp ~= ARGV[2]
if stranger and (first.done or tonumber(first.open or 0) > 0 or first.before or first.effect) then return 'conflict 0 0' end
if owner and owner ~= ARGV[1] then
  return 'held ' .. math.max(redis.call('PTTL', KEYS[1]), 0) .. ' 0'
end
if owner then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[4])
end
local starts, open, epoch = tonumber(record.starts or 0), tonumber(record.open or 0), tonumber(record.epoch or 0)
-- An operator ordered it anew: it starts afresh, but what was left unfinished may have had its effect.
if tonumber(ARGV[3]) > epoch then
  -- before: a start of an earlier epoch was left unfinished.
  if open > 0 then record.before = 1 end
  starts, open, epoch, record.last = 0, 0, ARGV[3], nil
end
-- The last start being our own, its answer was lost: it counts once.
if record.last ~= ARGV[1] then
  starts, open = starts + 1, open + 1
end
if record.gave == ARGV[1] then record.gave = nil end
-- told: whoever started last knows that an earlier start may have had its effect.
record.told = (open > 1 or record.before) and 1 or nil
record.fp, record.starts, record.open, record.epoch, record.last = ARGV[2], starts, open, epoch, ARGV[1]
redis.call('SET', KEYS[2], text(record), 'PX', ARGV[5])
if KEYS[3] then
  if stranger then first = {} end
  first.fp, first.effect = ARGV[2], first.effect or KEYS[2]
  keep_first(KEYS[3], first, ARGV[5])
end
if record.told then return 'interrupted ' .. starts .. ' ' .. open - 1 end
return 'fresh ' .. starts .. ' 0'
