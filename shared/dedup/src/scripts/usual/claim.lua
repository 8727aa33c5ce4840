-- Keys, arguments and answers: see claim.lua. The usual case: nothing is known of it; asked for the whole batch first.
local none = redis.call('EXISTS', unpack(KEYS)) == 0
local function usual(claim, record, at)
  if not none and redis.call('EXISTS', claim, record) == 1 then return nil end
  local token, fingerprint, epoch = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  -- Unless an earlier claim of this batch has made it known.
  local kept = redis.call('SET', record, fingerprint .. ' 1 1 ' .. epoch .. ' ' .. token, 'NX', 'PX', ARGV[3])
  if not kept then return nil end
  redis.call('SET', claim, token, 'NX', 'PX', ARGV[2])
  return 'fresh 1 0'
end
local finish = nil
