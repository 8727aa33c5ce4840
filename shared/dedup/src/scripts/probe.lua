-- KEYS: probe key, probe record. ARGV: token, ms.
-- Runs every command that the steps run, writes first, so that what cannot be done, or may not, is found out before a message is.
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
redis.call('SET', KEYS[2], text({fp = ARGV[1], open = 1}), 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('MGET', KEYS[1], KEYS[2])
redis.call('EXISTS', KEYS[1], KEYS[2])
redis.call('GET', KEYS[1])
redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
return 1
