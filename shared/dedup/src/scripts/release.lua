-- KEYS: as for claiming. ARGV: token, fingerprint, epoch (not used), record's retention ms.
-- Compare and delete. Answers 1 when the claim was still ours, and again 1 when the same token asks again.
local was = redis.call('MGET', KEYS[1], KEYS[2])
local owner, record = was[1], read(was[2])
local ours = owner == ARGV[1]
if not ours and record.gave == ARGV[1] then return 1 end
if ours then redis.call('DEL', KEYS[1]) end
if record.fp ~= ARGV[2] then return ours and 1 or 0 end
if ours then record.gave = ARGV[1] end
-- A start whose lease ran out unnoticed is closed as well when nobody has taken over: its owner knows how it ended.
local closes = record.last == ARGV[1] and (ours or not owner)
if closes then
  record.open, record.last = math.max(tonumber(record.open or 0) - 1, 0), nil
end
if ours or closes then redis.call('SET', KEYS[2], text(record), 'PX', ARGV[4]) end
-- Nothing of this effect is open: it does not stand in another fingerprint's way any more.
if closes and KEYS[3] and record.open == 0 and not record.before then
  local first = read(redis.call('GET', KEYS[3]))
  if first.effect == KEYS[2] then
    first.effect = nil
    keep_first(KEYS[3], first, ARGV[4])
  end
end
return ours and 1 or 0
