-- Keys, arguments and answers: see complete.lua. The usual case: started by this token alone, and still its own; fields as in record.lua.
if #KEYS == 2 then
  local was = redis.call('MGET', KEYS[1], KEYS[2])
  if was[1] == ARGV[1] and was[2] then
    local started, epoch, last = string.match(was[2], '^(%S+ %d+) 1 (%d+) (%S+)$')
    if last == ARGV[1] then
      redis.call('SET', KEYS[1], 'done', 'PX', ARGV[4])
      redis.call('SET', KEYS[2], started .. ' 0 ' .. epoch .. ' - ' .. ARGV[1] .. ' 1', 'PX', ARGV[4])
      return 1
    end
  end
end
