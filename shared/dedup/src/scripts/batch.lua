-- The end of each step: `step` for each claim of a batch, or `usual` where that suffices, with what it leaves to `finish`; both answer the same.
-- KEYS: two or three for each claim. ARGV: how many times follow; the times; then for each claim: how many keys, token, fingerprint, epoch.
-- Answers those of the claims, with commas between them.
local answers, touched = {}, {}
local function all()
  local times, key = tonumber(ARGV[1]), 0
  for at = times + 2, #ARGV, 4 do
    local count = tonumber(ARGV[at])
    local claim, record = KEYS[key + 1], KEYS[key + 2]
    -- What `usual` knows was read before anything was written.
    local answer = usual and count == 2 and not touched[record] and usual(claim, record, at, key)
    if not answer then
      local keys = {unpack(KEYS, key + 1, key + count)}
      for _, name in ipairs(keys) do touched[name] = true end
      answer = step(keys, {ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], unpack(ARGV, 2, times + 1)})
    end
    answers[#answers + 1] = answer
    key = key + count
  end
  if finish then finish() end
end
local ok, failure = pcall(all)
-- One text is cheaper than a reply of many parts, for Redis and for its client.
if ok then return table.concat(answers, ',') end
-- Nobody is told what became of the claims before: all of them may be repeated.
local text = type(failure) == 'table' and failure.err or tostring(failure)
return redis.error_reply((#answers > 0 and 'PARTLY ' or '') .. text)
