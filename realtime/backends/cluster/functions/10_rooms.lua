-- One room: its order, the publications that are kept of it, and what workers share in it.
--
-- `…:m`, a hash, is where the room is, in its one field `r` (packed: a number as text costs 0.4 us):
--   offset   of the last publication         start    offset before the epoch's first
--   touched  when the expiry was moved, us   fence    the highest that has written
--   bytes    ever added to the stream        dropped  those of them before the oldest entry, or less
--   nonce    the boot nonce that it was last written under: another one means that a tail may be lost
--   epoch    a number that only rises: above the one before it, and no less than Unix time in us; as text
-- `…:s`, a stream, is what is kept: an entry a blob, `<epoch>-<offset of its last publication>`, with `bytes`
-- as it was before it as b. A blob is a row of records; each begins with the number of bytes that follow
-- (u32, little end first). What else is in them is the workers' own.
-- `…:k:…` are idempotency keys: "<epoch> <offset>" of the first publication.
-- `…:p`, a hash, is what workers share: worker -> entry.
-- The room's channel carries what has happened, the first byte says what: 1 a run of publications (u64 epoch,
-- u64 offset of the first, blob), 2 a signal (the push), 3 a worker's entry (u16 bytes of its name, name,
-- entry), 4 a worker without one (its name). The workers send signals themselves.

local PACKED = '<ddddddc32'
local TRIM_EACH = 16 -- publications, or more in one blob: then the oldest above what is kept go

-- The channel's and the keys' common beginning.
local function stem(key)
  return string.sub(key, 1, -3)
end

-- Return the room of meta key `m`, in a new epoch where this is another mastership than the one that wrote
-- last, or where an epoch of at least `least` is asked for. It then goes on after the offset known here, and
-- not below `floor`. Where no floor is given, there is nil instead, and the error that says what is needed:
-- NOFLOOR, the offset known here, the least number of the next epoch, and the mastership.
local function room_at(m, s, now, floor, least)
  local current, packed = boot_nonce(now / 1000), redis.call('HGET', m, 'r')
  local room
  if packed then
    local offset, start, touched, fence, bytes, dropped, nonce, after = struct.unpack(PACKED, packed)
    room = {
      offset = offset, start = start, touched = touched, fence = fence, bytes = bytes, dropped = dropped,
      nonce = nonce, epoch = string.sub(packed, after),
    }
    if nonce == current and tonumber(room.epoch) >= least then return room end
  else
    room = {offset = 0, fence = 0, bytes = 0, dropped = 0, epoch = '-1'}
  end
  local epoch = math.max(now, least, tonumber(room.epoch) + 1)
  if floor == nil then
    local needed = {'NOFLOOR', whole(room.offset), whole(epoch), current}
    return nil, redis.error_reply(table.concat(needed, ' '))
  end
  if not packed then redis.call('DEL', s) end -- nothing says what that would be
  room.epoch, room.nonce, room.touched = whole(epoch), current, 0
  room.offset = math.max(room.offset, floor)
  room.start = room.offset
  return room
end

-- Where a room of a store is, is remembered for longer than what it keeps here: without it its next use begins
-- an epoch, and who was away would be told that something may be lost.
local LASTING_MS = 7 * 24 * 3600 * 1000

-- Write the room, and keep it for `window` ms more, at least. The expiry is moved once in an eighth of that.
local function keep_room(m, s, room, now, window, lasting)
  local due = now < room.touched or now - room.touched >= window * 125
  if due then room.touched = now end
  redis.call('HSET', m, 'r', struct.pack(
    PACKED, room.offset, room.start, room.touched, room.fence, room.bytes, room.dropped, room.nonce) .. room.epoch)
  if due then
    local ttl = whole(window + window / 8)
    redis.call('PEXPIRE', m, lasting and whole(math.max(LASTING_MS, window)) or ttl)
    redis.call('PEXPIRE', s, ttl)
  end
end

-- Drop the oldest entries above `keep` bytes; return `bytes` before the oldest that stays. The last one stays
-- always.
local function trim(s, added, keep)
  local from, last, before = '-', nil, 0
  while true do
    local entries = redis.call('XRANGE', s, from, '+', 'COUNT', 16)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      last, before = entry[1], struct.unpack('<d', entry[2][2])
      if added - before <= keep then
        redis.call('XTRIM', s, 'MINID', last)
        return before
      end
    end
    from = '(' .. last
  end
  redis.call('XTRIM', s, 'MINID', last)
  return before
end

-- Decide on each of `count` publications by its terms. Return what is said of each: its offset, or where it is
-- not accepted {offset, epoch} of the one that it repeats, 'F…' a newer fence, 'X…' another last offset;
-- and how many are accepted.
local function weigh(keys, args, room, count, window)
  local terms, said, offset = {}, {}, room.offset
  for at = 7, #args, 4 do terms[tonumber(args[at])] = at end
  for number = 1, count do
    local at = terms[number]
    local key, expect, fence = nil, nil, nil
    if at then
      local of = tonumber(args[at + 1])
      key, expect, fence = of > 0 and keys[of + 2], tonumber(args[at + 2]), tonumber(args[at + 3])
    end
    local first = key and redis.call('GET', key)
    if first then
      local epoch, its = string.match(first, '^(%d+) (%d+)$')
      said[number] = {tonumber(its), epoch}
    elseif fence and fence < room.fence then
      said[number] = 'F' .. whole(room.fence)
    elseif expect and expect ~= offset then
      said[number] = 'X' .. whole(offset)
    else
      offset = offset + 1
      said[number] = offset
      if fence then room.fence = fence end
      if key then
        redis.call('SET', key, room.epoch .. ' ' .. whole(offset), 'PX', window)
      end
    end
  end
  return said, offset - room.offset
end

-- The accepted records of a blob.
local function accepted_of(blob, said)
  local parts, at = {}, 1
  for _, one in ipairs(said) do
    local after = at + 4 + struct.unpack('<I4', blob, at)
    if type(one) == 'number' then parts[#parts + 1] = string.sub(blob, at, after - 1) end
    at = after
  end
  return table.concat(parts)
end

-- KEYS m s k…; ARGV count, window in ms, messages and bytes to keep, '1' where the room needs a floor, blob,
-- then for each publication with terms: its number from 1 on, the number of its key or 0, expect or '',
-- fence or ''. Answers {epoch, last offset}, and where there were terms as the third what `weigh` says.
redis.register_function('rt1_publish', function(keys, args)
  local m, s, blob, now = keys[1], keys[2], args[6], now_us()
  local count, window, keep, keep_bytes =
    tonumber(args[1]), tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local lasting = args[5] == '1'
  local room, needed = room_at(m, s, now, not lasting and 0 or nil, 0)
  if needed then return needed end
  local said
  if #args > 6 then
    local accepted
    said, accepted = weigh(keys, args, room, count, window)
    if accepted == 0 then
      keep_room(m, s, room, now, window, lasting)
      return {room.epoch, room.offset, said}
    end
    if accepted < count then blob = accepted_of(blob, said) end
    count = accepted
  end
  local first, before = room.offset + 1, room.bytes
  room.offset, room.bytes = room.offset + count, room.bytes + #blob
  local id, low = room.epoch .. '-' .. whole(room.offset), room.offset - keep + 1
  if low > room.start and room.offset % TRIM_EACH < count then
    low = room.epoch .. '-' .. whole(low)
    redis.call('XADD', s, 'MINID', '~', low, id, 'b', struct.pack('<d', before), 'd', blob)
  else
    redis.call('XADD', s, id, 'b', struct.pack('<d', before), 'd', blob)
  end
  if before == 0 then room.touched = 0 end -- the stream is new, and has no expiry
  if room.bytes - room.dropped > keep_bytes * 1.25 then room.dropped = trim(s, room.bytes, keep_bytes) end
  keep_room(m, s, room, now, window, lasting)
  redis.call('SPUBLISH', stem(m), struct.pack('<BI8I8', 1, tonumber(room.epoch), first) .. blob)
  return {room.epoch, room.offset, said}
end)

-- Where a room is: {epoch, offset, offset before the epoch's first}.
local function position(keys, window, lasting, floor, least)
  local now = now_us()
  local room, needed = room_at(keys[1], keys[2], now, floor, least)
  if needed then return needed end
  if redis.call('EXISTS', keys[2]) == 0 then room.bytes, room.dropped = 0, 0 end -- it has expired before
  keep_room(keys[1], keys[2], room, now, window, lasting)
  return {room.epoch, room.offset, room.start}
end

-- KEYS m s; ARGV window in ms, '1' where the room needs a floor.
redis.register_function('rt1_position', function(keys, args)
  local lasting = args[2] == '1'
  return position(keys, tonumber(args[1]), lasting, not lasting and 0 or nil, 0)
end)

-- KEYS m s; ARGV window in ms, floor: the last offset that the store has, the least number of the epoch.
redis.register_function('rt1_open', function(keys, args)
  return position(keys, tonumber(args[1]), true, tonumber(args[2]), tonumber(args[3]))
end)

-- KEYS p; ARGV window in ms, worker, its entry; without one it has none any more.
redis.register_function('rt1_share', function(keys, args)
  local p, worker, entry = keys[1], args[2], args[3]
  if entry then
    redis.call('HSET', p, worker, entry)
    redis.call('PEXPIRE', p, args[1])
    redis.call('SPUBLISH', stem(p), struct.pack('<BI2', 3, #worker) .. worker .. entry)
  else
    redis.call('HDEL', p, worker)
    redis.call('SPUBLISH', stem(p), '\4' .. worker)
  end
  return redis.status_reply('OK')
end)
