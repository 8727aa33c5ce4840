-- Keys, arguments and answers: see complete.lua. The usual case: started once, by this token, and still its own; fields as in record.lua.
local was, ended = redis.call('MGET', unpack(KEYS)), {}
local function usual(claim, record, at, key)
  local token, fingerprint, epoch = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if was[key + 1] ~= token or was[key + 2] ~= fingerprint .. ' 1 1 ' .. epoch .. ' ' .. token then return nil end
  redis.call('SET', record, fingerprint .. ' 1 0 ' .. epoch .. ' - ' .. token .. ' 1', 'PX', ARGV[2])
  ended[#ended + 1] = claim
  return 1
end
-- All at once is cheaper. The records say done already, so it does not matter if it does not come to this.
local function finish()
  if #ended > 0 then redis.call('DEL', unpack(ended)) end
end
