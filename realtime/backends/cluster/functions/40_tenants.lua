-- How many connections each tenant has on which worker.
--
-- KEYS[1] <prefix>:{t/<tenant>}  hash: worker -> `seen in ms` `connections there`. It ends with its TTL when nobody
--                                tells of it.

do
  -- How long a worker counts that the caller's ring does not know: it may have just come.
  local STRANGER_MS = 3000

  -- ARGV: worker, connections there, ttl in ms, workers in the ring (by spaces; `-` where unknown).
  -- Returns the connections on other workers, and how many workers those are.
  local function headcount(keys, args)
    local key, worker, here, ring = keys[1], args[1], tonumber(args[2]), args[4]
    local now, ttl_ms = now_ms(), tonumber(args[3])
    if here > 0 then
      redis.call('HSET', key, worker, whole(now) .. ' ' .. here)
      redis.call('PEXPIRE', key, ttl_ms)
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
        local seen, there = string.match(entries[i + 1], '^(%d+) (%d+)$')
        local age_ms = now - tonumber(seen)
        if age_ms > ttl_ms then
          redis.call('HDEL', key, entries[i])
        elseif ring == '-' or alive[entries[i]] or age_ms < STRANGER_MS then
          connections, workers = connections + tonumber(there), workers + 1
        end
      end
    end
    return {connections, workers}
  end

  redis.register_function('rt1_headcount', headcount)
end
