-- No case is cheaper than the others.
local usual = nil
