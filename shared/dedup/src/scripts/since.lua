-- KEYS: the record's beginning. Answers milliseconds since 1970: since when nothing has been lost as a whole. Never expires.
local since = redis.call('GET', KEYS[1])
if not since then
  local now = redis.call('TIME')
  since = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('SET', KEYS[1], since)
end
return since
