-- Part of other scripts. The record of an effect is one text: its fields in this order, '-' for what is not there, nothing for what is not there at the end.
-- starts, open (unfinished starts) and epoch are numbers; done, before and told are 1 or not there; last, by and gave are tokens.
local FIELDS = {'fp', 'starts', 'open', 'epoch', 'last', 'by', 'done', 'before', 'told', 'gave', 'effect'}
local function read(text)
  local record, at = {}, 1
  for value in string.gmatch(text or '', '%S+') do
    if value ~= '-' then record[FIELDS[at]] = value end
    at = at + 1
  end
  return record
end
local function text(record)
  local values, last = {}, 1
  for at, field in ipairs(FIELDS) do
    values[at] = record[field] or '-'
    if record[field] then last = at end
  end
  return table.concat(values, ' ', 1, last)
end
-- The record of the first effect lives as long as the longest of those that need it.
local function keep_first(key, record, ms)
  redis.call('SET', key, text(record), 'PX', math.max(redis.call('PTTL', key), tonumber(ms)))
end
