-- How many connections each tenant has on which worker.
--
-- KEYS[1] <prefix>:{t/<tenant>}  hash: worker -> its connections. It ends with its TTL when nobody tells of it.

do
  -- ARGV: worker, connections there, ttl in ms, workers in the ring (by spaces; `-` where unknown).
  -- Returns the connections on other workers, and how many workers those are. What is of workers that are gone
  -- is dropped; one that is not gone after all tells it again.
  local function headcount(keys, args)
    local key, worker, here, ring = keys[1], args[1], tonumber(args[2]), args[4]
    if here > 0 then
      redis.call('HSET', key, worker, here)
      redis.call('PEXPIRE', key, args[3])
    else
      redis.call('HDEL', key, worker)
    end
    local alive = {}
    for each in string.gmatch(ring, '%S+') do
      alive[each] = true
    end
    local connections, workers = 0, 0
    local entries = redis.call('HGETALL', key)
    for i = 1, #entries, 2 do
      if entries[i] ~= worker then
        if ring == '-' or alive[entries[i]] then
          connections, workers = connections + tonumber(entries[i + 1]), workers + 1
        else
          redis.call('HDEL', key, entries[i])
        end
      end
    end
    return {connections, workers}
  end

  redis.register_function('rt1_headcount', headcount)
end
