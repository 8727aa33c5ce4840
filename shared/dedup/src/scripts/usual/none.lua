-- No case is cheaper than the others.
local usual, finish = nil, nil
