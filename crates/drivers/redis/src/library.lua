-- SPDX-License-Identifier: Apache-2.0
-- The keyspaces of Atomix in Redis: a function that commits and one that reads. `names.rs` has the keys of a keyspace,
-- `program.rs` the arguments and results, `frame.rs` the stream of changes.
--
-- State lives in the locals below only while a function runs: that is faster than making closures for each call. Every call
-- begins by setting all that it uses. Other unusual forms were measured as well: a string costs by its bytes, a table
-- more than a command.

-- Bound by the first call: they are not there yet when Redis loads the library.
local call, pack, unpack_at, unpack, byte, sub, format, concat
-- The names of the records, of their keys in order, and of the stream of changes.
local V, I, S
-- The arguments, and the position of the next operand.
local A, operand
-- Records by the numbers of their keys. The first key is the empty one: its record is the state of the keyspace. The program
-- names `n` keys; numbers beyond are of others, which are in `K`.
local R, n, K, k
-- The numbers of keys by key, made when a key comes up that the program does not name.
local numbers
-- The numbers of keys whose records were changed but not yet written, and whether there was a record. The tables are kept
-- from call to call, because making tables costs more than anything else here.
local touched, was, touches = {}, {}, 0
-- The state of the keyspace (the revision also as it is written), and whether it was changed but not yet written.
local rev, now, nonce, mark, bytes, changed
-- Commits that were made but not yet put into the stream, in parts. Kept as well.
local commits, c = {}, 0
-- The answer, in parts. Kept as well. It is one string, because Redis takes longer to pass on a table.
local out, o = {}, 0

-- The maximum of arguments of a command; beyond about 8,000 Lua cannot pass them.
local PIECE = 4000
-- The minimum time for which a named request is remembered, in seconds.
local KEPT = 300
-- Revision zero, and the length of nothing.
local NONE, EMPTY = '\0\0\0\0\0\0\0\0', '\0\0\0\0'

local function bind()
  pack, unpack_at, unpack, concat = struct.pack, struct.unpack, _G.unpack, table.concat
  byte, sub, format, call = string.byte, string.sub, string.format, redis.call
end

local function begin()
  if not call then bind() end
  if touches > 0 or c > 0 then
    -- The call before ended with an error.
    touched, was, touches, commits, c = {}, {}, 0, {}, 0
  end
  changed, o = false, 0
end

-- Reads the records of the keys that the program names.
local function fetch()
  k, K, numbers = n, nil, nil
  if n <= PIECE then
    R = call('HMGET', V, unpack(A, 2, n + 1))
    return
  end
  R = {}
  for first = 1, n, PIECE do
    local last = first + PIECE - 1
    if last > n then last = n end
    local found = call('HMGET', V, unpack(A, first + 1, last + 1))
    for j = first, last do R[j] = found[j - first + 1] end
  end
end

-- Answers with a record, or with nothing.
local function answer(record)
  if record then
    out[o + 1] = pack('>I4', #record)
    out[o + 2] = record
    o = o + 2
  else
    o = o + 1
    out[o] = EMPTY
  end
end

-- All that was answered.
local function answered()
  local all = concat(out, '', 1, o)
  -- Large tables are not kept.
  if o > 1000 or #all > 10000 then out = {} end
  return all
end

local function in_pieces(command, key, list, len)
  for from = 1, len, PIECE do
    local to = from + PIECE - 1
    if to > len then to = len end
    call(command, key, unpack(list, from, to))
  end
end

-- Puts the commits into the stream and publishes them.
local function emit()
  local frame
  if c == 5 then
    -- One change: the usual case.
    frame = nonce .. commits[1] .. commits[2] .. commits[3] .. commits[4] .. commits[5]
  else
    frame = nonce .. concat(commits, '', 1, c)
  end
  -- Large tables are not kept.
  if c > 1000 or #frame > 10000 then commits = {} end
  c = 0
  bytes = bytes + #frame
  call('XADD', S, format('%d-0', rev), 'c', frame)
  call('SPUBLISH', V .. '$CHANNEL', frame)
  -- Everything before the mark goes when enough has come after it.
  local marked = unpack_at('>I8', mark)
  if bytes > $HISTORY_BYTES_HALF or rev - marked > $HISTORY_COMMITS_MAX then
    call('XTRIM', S, 'MINID', format('%d-0', marked + 1))
    mark = now
    bytes = 0
  end
end

-- Writes records and index.
local function flush()
  local state = changed and now .. nonce .. mark .. pack('>I8', bytes)
  changed = false
  if touches == 1 and state then
    -- The usual case, without tables.
    local j = touched[1]
    local key, record, old = j <= n and A[j + 1] or K[j], R[j], was[j]
    touches, was[j] = 0, nil
    if record then
      if not old then call('ZADD', I, 0, key) end
      call('HSET', V, '', state, key, record)
    else
      if old then
        call('ZREM', I, key)
        call('HDEL', V, key)
      end
      call('HSET', V, '', state)
    end
    return
  end
  local set, s, add, a, gone, g = {}, 0, {}, 0, {}, 0
  if state then set[1], set[2], s = '', state, 2 end
  for t = 1, touches do
    local j = touched[t]
    local key, record = j <= n and A[j + 1] or K[j], R[j]
    if record then
      set[s + 1] = key
      set[s + 2] = record
      s = s + 2
      if not was[j] then
        add[a + 1] = 0
        add[a + 2] = key
        a = a + 2
      end
    elseif was[j] then
      g = g + 1
      gone[g] = key
    end
    was[j] = nil
  end
  touches = 0
  in_pieces('ZADD', I, add, a)
  in_pieces('ZREM', I, gone, g)
  in_pieces('HDEL', V, gone, g)
  in_pieces('HSET', V, set, s)
end

local function number_of(key)
  if not numbers then
    numbers, K = {}, {}
    for j = 1, n do numbers[A[j + 1]] = j end
  end
  local j = numbers[key]
  if not j then
    k = k + 1
    j = k
    K[j] = key
    R[j] = call('HGET', V, key)
    numbers[key] = j
  end
  return j
end

-- Notes the new record of a key, false for none. Returns the one before.
local function write(j, record)
  local key, previous = j <= n and A[j + 1] or K[j], R[j]
  if was[j] == nil then
    touches = touches + 1
    touched[touches] = j
    was[j] = previous and true or false
  end
  R[j] = record
  local before, after = previous or '', record or ''
  commits[c + 1] = pack('>I4I4I4', #key, #before, #after)
  commits[c + 2] = key
  commits[c + 3] = before
  commits[c + 4] = after
  c = c + 4
  return previous
end

-- Answers with the first records of a range. They are fetched in pieces that double, so that a scan of large values does
-- not fetch far beyond its bound.
local function scan(limit, descending, keys_only)
  local low, high = A[operand], A[operand + 1]
  operand = operand + 2
  local head, found, size, more, piece = o + 1, 0, 0, 0, 8
  o = head
  repeat
    local wanted = piece
    if limit - found + 1 < wanted then wanted = limit - found + 1 end
    local keys
    if descending then
      keys = call('ZREVRANGEBYLEX', I, high, low, 'LIMIT', 0, wanted)
    else
      keys = call('ZRANGEBYLEX', I, low, high, 'LIMIT', 0, wanted)
    end
    local room = limit - found
    if #keys < room then room = #keys end
    local records = room > 0 and call('HMGET', V, unpack(keys, 1, room))
    for j = 1, #keys do
      if found == limit or (size >= $SCAN_BYTES_MAX and found > 0) then
        more = 1
        break
      end
      local key, record = keys[j], records[j]
      if not record then error('DAMAGED a key without a record') end
      if keys_only then record = sub(record, 1, 16) end
      size = size + #key + #record - 16
      found = found + 1
      out[o + 1] = pack('>I4I4', #key, #record)
      out[o + 2] = key
      out[o + 3] = record
      o = o + 3
    end
    if #keys > 0 then
      if descending then high = '(' .. keys[#keys] else low = '(' .. keys[#keys] end
    end
    if piece < 512 then piece = piece * 2 end
  until #keys < wanted or more == 1
  out[head] = pack('>I4I4', more, found)
end

local function read(reads, p)
  local program = A[1]
  for _ = 1, reads do
    local code, x, y, z = byte(program, p, p + 3)
    if code == 103 then -- g: the record of a key
      answer(R[x * 65536 + y * 256 + z])
      p = p + 4
    else
      if c > 0 then emit() end
      if touches > 0 then flush() end
      if code == 107 then -- k: the number of keys in a range
        o = o + 1
        out[o] = pack('>I8', call('ZLEXCOUNT', I, A[operand], A[operand + 1]))
        operand = operand + 2
        p = p + 1
      else -- s: the first records of a range; 1 descending, 2 keys only
        scan(unpack_at('>I4', program, p + 2), x % 2 == 1, x >= 2)
        p = p + 6
      end
    end
  end
end

local function holds(guards, p)
  local program = A[1]
  for _ = 1, guards do
    local code, x, y, z = byte(program, p, p + 3)
    local record = R[x * 65536 + y * 256 + z]
    local held
    p = p + 4
    if code == 97 then -- a: absent
      held = not record
    elseif code == 112 then -- p: present
      held = record
    elseif code == 109 then -- m: modified at
      held = record and sub(record, 9, 16) == sub(program, p, p + 7)
      p = p + 8
    elseif code == 118 then -- v: the value is
      held = record and sub(record, 17) == A[operand]
      operand = operand + 1
    else -- n: the value is not
      held = not record or sub(record, 17) ~= A[operand]
      operand = operand + 1
    end
    if not held then return false end
  end
  return true
end

-- Returns whether all additions are to numbers.
local function numeric(adds, p)
  local program = A[1]
  for _ = 1, adds do
    local x, y, z = byte(program, p, p + 2)
    local record = R[x * 65536 + y * 256 + z]
    if record and #record ~= 24 then return false end
    p = p + 3
  end
  return true
end

-- Adds in two halves, because numbers here have 53 bits. Wraps around.
local function sum(previous, program, p)
  if not previous then return sub(program, p, p + 7) end
  local high, low = unpack_at('>I4I4', program, p)
  local old_high, old_low = unpack_at('>I4I4', previous, 17)
  low = low + old_low
  high = high + old_high
  if low >= 4294967296 then
    low = low - 4294967296
    high = high + 1
  end
  if high >= 4294967296 then high = high - 4294967296 end
  return pack('>I4I4', high, low)
end

local function apply(writes, p)
  local program, next = A[1], pack('>I8', rev + 1)
  local head = c + 1
  c = head
  for _ = 1, writes do
    local code, x, y, z = byte(program, p, p + 3)
    local j = x * 65536 + y * 256 + z
    local previous = R[j]
    p = p + 4
    if code == 80 then -- P: put
      answer(write(j, (previous and sub(previous, 1, 8) or next) .. next .. A[operand]))
      operand = operand + 1
    elseif code == 65 then -- A: add
      local value = sum(previous, program, p)
      p = p + 8
      write(j, (previous and sub(previous, 1, 8) or next) .. next .. value)
      o = o + 1
      out[o] = value
    elseif code == 83 then -- S: stamp
      j = number_of(A[operand] .. next)
      previous = R[j]
      write(j, (previous and sub(previous, 1, 8) or next) .. next .. A[operand + 1])
      operand = operand + 2
    elseif code == 68 then -- D: delete
      answer(previous and write(j, false))
    else -- X: delete a range
      if touches > 0 then flush() end
      local gone = call('ZRANGEBYLEX', I, A[operand], A[operand + 1])
      operand = operand + 2
      for g = 1, #gone do write(number_of(gone[g]), false) end
      o = o + 1
      out[o] = pack('>I8', #gone)
    end
  end
  if c == head then
    c = head - 1
    return
  end
  commits[head] = next .. pack('>I4', (c - head) / 4)
  rev, now, changed = rev + 1, next, true
end

-- One transaction of the program, which begins at `p`. Returns where the next one begins.
local function step(p, base)
  local guards, adds, writes, reads, reads_applied, p_writes, p_reads, p_next, operand_reads, operand_next =
    unpack_at('>I4I4I4I4I4I4I4I4I4I4', A[1], p)
  local head = o + 1
  o = o + 2
  if holds(guards, p + 40) then
    if not numeric(adds, p_writes) then
      out[head], out[o], operand = 'I', '', base + operand_next
      return p_next
    end
    apply(writes, p_writes + 3 * adds)
    out[head] = 'A'
    if reads_applied == 0 then
      out[head + 1], operand = now, base + operand_next
      return p_next
    end
  else
    out[head], operand = 'R', base + operand_reads
  end
  out[head + 1] = now
  if reads > 0 then read(reads, p_reads) end
  return p_next
end

-- Forgets the oldest two named requests that are old enough: twice as many as come. Returns how many are left, and the time
-- in seconds. A name stands in the order behind a zero and the time, in 8 bytes; earlier versions wrote nothing but the name.
local function forget(outcomes, names)
  local now = tonumber(call('TIME')[1])
  local oldest = call('LRANGE', names, 0, 1)
  for j = 1, #oldest do
    local entry = oldest[j]
    if byte(entry, 1) == 0 and #entry > 9 then
      if now - unpack_at('>I8', entry, 2) < KEPT then break end
      call('LPOP', names)
      call('HDEL', outcomes, sub(entry, 10))
    else
      call('LPOP', names)
      call('RPUSH', names, '\0' .. pack('>I8', now) .. entry)
    end
  end
  return call('LLEN', names), now
end

-- Returns where the keyspaces of a slot begin, and makes sure that the key is there: while a slot moves to another node, Redis
-- refuses calls with several keys of which one is missing.
local function floor(key)
  local found = call('HGET', key, '')
  if not found then
    found = NONE
    call('HSET', key, '', found)
  end
  return found
end

-- Applies the transactions of a program, each as a whole, one after the other.
--
-- KEYS: the records, their keys in order, the changes, the floor; with a named request also outcomes by name, and names in order.
-- KEYS[4] is where the keyspaces of the slot begin: beyond the revisions of those that were given back.
-- ARGV: the program, the keys that it names, the values and bounds in the order in which they are used.
--
-- The stream is written before the records, because XADD is the only command here that Redis refuses for what is there: a
-- keyspace that lost its state but not its stream.
local function commit(keys, args)
  V, I, S, A = keys[1], keys[2], keys[3], args
  local outcomes, names = keys[5], keys[6]
  begin()
  local txns
  nonce, n, txns = unpack_at('>c8I4I4', args[1])
  operand = 2 + n
  local base, name, shape, seconds = operand
  if outcomes then
    name, shape = args[operand], args[operand + 1]
    base, operand = base + 2, operand + 2
    local outcome = call('HGET', outcomes, name)
    if outcome then return outcome end
    local remembered
    remembered, seconds = forget(outcomes, names)
    if remembered >= $ONCE_MAX then return 'F' end
  end
  fetch()
  local state = R[1]
  if state then
    rev, bytes = unpack_at('>I8', state), unpack_at('>I8', state, 25)
    now, mark = sub(state, 1, 8), sub(state, 17, 24)
  else
    now = floor(keys[4])
    rev, mark, bytes = unpack_at('>I8', now), now, 0
  end
  local p = 17
  for _ = 1, txns do p = step(p, base) end
  if c > 0 then emit() end
  if touches > 0 or changed then flush() end
  local outcome = answered()
  if outcomes and outcome ~= 'I' then
    call('HSET', outcomes, name, 'P' .. pack('>I4', #shape) .. shape .. outcome)
    call('RPUSH', names, '\0' .. pack('>I8', seconds) .. name)
    -- Without new named requests all of them are removed together.
    call('EXPIRE', outcomes, 2 * KEPT)
    call('EXPIRE', names, 2 * KEPT)
  end
  return outcome
end

-- Answers reads, all of one moment. KEYS and ARGV as above; the program is nothing but reads.
local function look(keys, args)
  V, I, A = keys[1], keys[2], args
  begin()
  local reads
  n, reads = unpack_at('>I4I4', args[1])
  operand = 2 + n
  fetch()
  o = 1
  out[1] = R[1] and sub(R[1], 1, 8) or NONE
  read(reads, 9)
  return answered()
end

-- Makes sure that a keyspace has a state, and answers with it: revisions of a keyspace that is followed have no gaps. KEYS: the
-- records, the floor. ARGV: a nonce.
local function found(keys, args)
  begin()
  local state = call('HGET', keys[1], '')
  if not state then
    local first = floor(keys[2])
    state = first .. args[1] .. first .. NONE
    call('HSET', keys[1], '', state)
  end
  return state
end

-- Gives a keyspace back that has no records, remembers no requests and is not followed, and raises the floor. KEYS: the records,
-- their keys in order, the changes, the floor, outcomes by name. ARGV: the channel. A user without the permission to count subscribers keeps all
-- keyspaces.
local function reclaim(keys, args)
  begin()
  local state = call('HGET', keys[1], '')
  if not state or call('ZLEXCOUNT', keys[2], '-', '+') > 0 then return 0 end
  local named = redis.pcall('EXISTS', keys[5])
  if type(named) ~= 'number' or named > 0 then return 0 end
  local followers = redis.pcall('PUBSUB', 'SHARDNUMSUB', args[1])
  if followers.err or tonumber(followers[2]) ~= 0 then return 0 end
  local floor = call('HGET', keys[4], '')
  if not floor or unpack_at('>I8', floor) < unpack_at('>I8', state) then
    call('HSET', keys[4], '', sub(state, 1, 8))
  end
  call('DEL', keys[1], keys[2], keys[3])
  return 1
end

redis.register_function { function_name = 'commit_$HASH', callback = commit }
-- For transactions that do not grow the keyspace: it works when Redis is out of memory.
redis.register_function { function_name = 'shrink_$HASH', callback = commit, flags = { 'allow-oom' } }
redis.register_function { function_name = 'read_$HASH', callback = look, flags = { 'no-writes' } }
redis.register_function { function_name = 'found_$HASH', callback = found, flags = { 'allow-oom' } }
redis.register_function { function_name = 'reclaim_$HASH', callback = reclaim, flags = { 'allow-oom' } }
