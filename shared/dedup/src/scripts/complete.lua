-- KEYS: as for claiming. ARGV: token, fingerprint, epoch (not used), retention ms.
-- Always sets done, on the record, and ends the claim: the effect happened. Answers 1 when the claim was still ours, and again 1 when the same
-- token asks again; also when it had ended and nobody has claimed since, or who did was told of an unfinished start. 0: somebody may have
-- started without knowing.
local was = redis.call('MGET', KEYS[1], KEYS[2])
local owner, record = was[1], read(was[2])
local held = record.told and 1 or 0
if record.done and record.fp == ARGV[2] then
  if record.by == ARGV[1] then held = 1 end
elseif owner == ARGV[1] or record.last == ARGV[1] then
  record.by, held = ARGV[1], 1
else
  record.by = nil
end
record.fp, record.open, record.done, record.last, record.gave, record.before = ARGV[2], 0, 1, nil, nil, nil
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], text(record), 'PX', ARGV[4])
if KEYS[3] then
  local first = read(redis.call('GET', KEYS[3]))
  first.fp, first.effect = first.fp or ARGV[2], 'done'
  keep_first(KEYS[3], first, ARGV[4])
end
return held
