-- Keys, arguments and answers: see claim.lua. The usual case: nothing is known of it.
if #KEYS == 2 and redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[4])
  redis.call('SET', KEYS[2], ARGV[2] .. ' 1 1 ' .. ARGV[3] .. ' ' .. ARGV[1], 'PX', ARGV[5])
  return {'fresh', 1, 0}
end
