-- What the transcoder leaves open between JSON and protobuf. It runs in front of it, on each route below /v1/:
--   a body has to be strict JSON (RFC 8259) without repeated or unknown members, and its bytes strict base64 (RFC 4648):
--     the transcoder alone passes over unknown members, single quotes, trailing commas and spaces in base64;
--   `"encoding": "hex"` turns `data` from hexadecimal into the base64 that the transcoder reads;
--   headers that gRPC cannot carry are left out;
--   an answer is cut down to the `response_body` of its RPC, which the transcoder does not know;
--   an error that no ErrorInfo explains gets one.
-- A route says in its metadata which `message` its body is and which `member` its answer is. The server takes no "hex", so
-- that nothing is signed which was not decoded.

local ffi = require("ffi")

-- Nobody has shown a credential yet, so the work for a body is bounded, and generous to every request of the contract:
-- a batch of 256 items with every member has some 7000 tokens, and 4 MiB of base64 whose slashes are escaped some 65 000
-- escapes.
local MAX_DEPTH = 16
local MAX_TOKENS = 32768
local MAX_ESCAPES = 131072

-- What the members of each message are: another message, or one of these.
local DATA, BYTES, ENCODING, ANY = "data", "bytes", "encoding", "any"

local SIGN_ITEM = {
  key_id = ANY, data = DATA, prehashed = ANY, hash = ANY, format = ANY, sign_mode = ANY, request_id = ANY,
  key_version = ANY,
}
local KEY_NAME = { name = ANY, namespace = ANY }
local MESSAGES = {
  AcceptInvitationRequest = { token = ANY },
  BatchCreateKeysRequest = {
    keys = KEY_NAME, prefix = ANY, count = ANY, namespace = ANY, algorithm = ANY, exportable = ANY, metadata = ANY,
  },
  BatchSignRequest = {
    requests = SIGN_ITEM, encoding = ENCODING, prehashed = ANY, hash = ANY, format = ANY, sign_mode = ANY,
  },
  ConnectIdentityProviderRequest = { kind = ANY, name = ANY, issuer = ANY, client_id = ANY, client_secret = ANY },
  CancelRecoveryChangeRequest = {},
  CreateApiKeyRequest = {
    name = ANY, scopes = ANY, role = ANY, expires_at = ANY, ip_allow_list = ANY, namespaces = ANY, keys = ANY,
  },
  CreateInvitationRequest = { email = ANY, role = ANY, expires_at = ANY },
  CreateKeyRequest = { name = ANY, namespace = ANY, algorithm = ANY, exportable = ANY, metadata = ANY },
  CreateNamespaceRequest = { name = ANY, address_prefix = ANY },
  CreateOrganizationRequest = { name = ANY },
  DisableKeyRequest = { key_id = ANY },
  EnableKeyRequest = { key_id = ANY },
  ExportKeyRequest = { key_id = ANY, recipient = ANY, versions = ANY },
  ImportKeyRequest = {
    name = ANY, namespace = ANY, algorithm = ANY, exportable = ANY, metadata = ANY, ciphertext = BYTES,
    wrapping_key_id = ANY,
  },
  RestoreOrganizationRequest = {},
  RevokeAllSessionsRequest = {},
  RotateApiKeyRequest = { api_key_id = ANY, overlap_seconds = ANY },
  RotateKeyRequest = { key_id = ANY, expected_version = ANY },
  SetRecoveryRecipientRequest = { recipient = ANY },
  SignRequest = {
    key_id = ANY, data = DATA, encoding = ENCODING, prehashed = ANY, hash = ANY, format = ANY, sign_mode = ANY,
    request_id = ANY, key_version = ANY,
  },
  UndeleteKeyRequest = { key_id = ANY },
  UpdateKeyRequest = { key_id = ANY, name = ANY, metadata = ANY, min_version = ANY },
  UpdateMemberRequest = { user_id = ANY, role = ANY },
  UpdateOrganizationRequest = { name = ANY },
  VerifyRequest = {
    key_id = ANY, public_key = ANY, data = DATA, encoding = ENCODING, signature = BYTES, prehashed = ANY, hash = ANY,
    format = ANY, key_version = ANY,
  },
}

-- proto3 JSON takes each name in lowerCamelCase too.
local function with_camel_case(message)
  local camel = {}
  for name, kind in pairs(message) do
    camel[name:gsub("_(%l)", string.upper)] = kind
  end
  for name, kind in pairs(camel) do
    message[name] = kind
  end
end
with_camel_case(SIGN_ITEM)
for _, message in pairs(MESSAGES) do
  with_camel_case(message)
end

local DIGIT = {}
for digit = 0, 15 do
  local written = ("%x"):format(digit)
  DIGIT[written:byte()], DIGIT[written:upper():byte()] = digit, digit
end

local ESCAPED = { ['"'] = '"', ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
-- \uXXXX of ASCII. Not of the backslash, which would begin an escape anew, nor of \1, which stands for one in between.
local ASCII = {}
for code = 0, 127 do
  if code ~= 1 and code ~= 92 then
    local low, high = ("%04x"):format(code), ("%04X"):format(code)
    ASCII[low], ASCII[high] = string.char(code), string.char(code)
  end
end

-- What this looks for in strings is ASCII, so an escape beyond it stays as it is written, and equals none of it.
local function unescaped(written)
  local text = written:gsub("\\\\", "\1"):gsub("\\u(%x%x%x%x)", ASCII):gsub('\\(["/bfnrt])', ESCAPED):gsub("\1", "\\")
  return text
end

-- The string whose opening quote is at `start`: where its closing quote is, or nil if it is no string; and how many escapes
-- it has, of which there may be `most`.
local function end_of_string(text, start, most)
  local stop, escapes = start + 1, 0
  while true do
    stop = text:find('["\\%c]', stop)
    local found = stop and text:byte(stop)
    if found == 34 then return stop, escapes end
    if found == 127 then
      stop = stop + 1
    elseif found == 92 then
      escapes = escapes + 1
      if escapes > most then return nil, escapes end
      local letter = text:byte(stop + 1)
      if letter == 117 and text:find("^%x%x%x%x", stop + 2) then
        stop = stop + 6
      elseif text:find('^["\\/bfnrt]', stop + 1) then
        stop = stop + 2
      else
        return nil, escapes
      end
    else
      return nil, escapes
    end
  end
end

-- Where the number, true, false or null at `start` ends, or nil.
local function read_literal(text, start)
  local word = text:match("^[%w%.%+%-]+", start)
  if not word then return nil end
  local digits = word:match("^%-?0(.*)$") or word:match("^%-?[1-9]%d*(.*)$")
  local number = digits and digits:gsub("^%.%d+", ""):gsub("^[eE][%+%-]?%d+", "") == ""
  if number or word == "true" or word == "false" or word == "null" then return start + #word - 1 end
  return nil
end

-- Walks through `text`, which should be `message`, and calls on_string(kind, first, last, value) for each string that is
-- DATA, BYTES or ENCODING. Returns what is wrong, or nil.
local function walk(text, message, on_string)
  local at, depth, tokens, escapes_left = 1, 0, 0, MAX_ESCAPES
  -- Of each open object or array: its closing character, its names so far (an array has none), the message that it is
  -- (or nil: anything goes), the kind of the value that comes next in it.
  local closers, names, messages, kinds = {}, {}, {}, { [0] = message }
  -- What may come: "value", "first" (a value or an array's end), "name", "first name", "more" (a comma or the end), "end".
  local expected = "value"

  local function malformed()
    if escapes_left < 0 then return "The body has more than " .. MAX_ESCAPES .. " escapes in its strings." end
    return "The body is not JSON (RFC 8259) at byte " .. at .. "."
  end

  -- The string at `at`, which may be none, and where its closing quote is.
  local function read_string()
    local stop, escapes = end_of_string(text, at, escapes_left)
    escapes_left = escapes_left - escapes
    if not stop then return nil end
    local written = text:sub(at + 1, stop - 1)
    return escapes > 0 and unescaped(written) or written, stop
  end

  while true do
    at = text:find("[^ \t\r\n]", at)
    if not at then
      return expected ~= "end" and "The body ends before its JSON does." or nil
    end
    local char = text:sub(at, at)
    local last = nil
    if expected == "end" then
      return malformed()
    elseif expected ~= "value" and expected ~= "name" and char == closers[depth] then
      depth, last = depth - 1, at
    elseif expected == "more" then
      if char ~= "," then return malformed() end
      expected = names[depth] and "name" or "value"
      at = at + 1
    elseif expected == "name" or expected == "first name" then
      local name, stop = nil, nil
      if char == '"' then name, stop = read_string() end
      local colon = name and text:match("^[ \t\r\n]*():", stop + 1)
      if not colon then return malformed() end
      if names[depth][name] then return "The body has the member " .. name .. " more than once in one object." end
      names[depth][name] = true
      kinds[depth] = ANY
      if messages[depth] then
        kinds[depth] = messages[depth][name]
        if not kinds[depth] then
          return "The body has an unknown member, " .. name .. "; /openapi.json lists the known ones."
        end
      end
      at, expected = colon + 1, "value"
    elseif char == "{" or char == "[" then
      if depth == MAX_DEPTH then return "The body nests deeper than " .. MAX_DEPTH .. " levels." end
      local kind = kinds[depth]
      depth = depth + 1
      if char == "{" then
        closers[depth], names[depth], expected = "}", {}, "first name"
        messages[depth] = type(kind) == "table" and kind or nil
      else
        closers[depth], names[depth], expected = "]", nil, "first"
        kinds[depth] = kind
      end
      at = at + 1
    elseif char == '"' then
      local value
      value, last = read_string()
      if not value then return malformed() end
      local kind = kinds[depth]
      if kind == DATA or kind == BYTES or kind == ENCODING then on_string(kind, at, last, value) end
    else
      last = read_literal(text, at)
      if not last then return malformed() end
    end
    tokens = tokens + 1
    if tokens > MAX_TOKENS then return "The body has more than " .. MAX_TOKENS .. " tokens." end
    if last then
      at, expected = last + 1, depth == 0 and "end" or "more"
    end
  end
end

local function bytes_of_hex(hex)
  local first = hex:find("^0[xX]") and 3 or 1
  local count = #hex - first + 1
  if count % 2 == 1 then return nil, "data is hexadecimal with an odd number of digits." end
  if hex:find("%X", first) then return nil, "data has a character that is no hexadecimal digit, and encoding is hex." end
  local bytes = ffi.new("uint8_t[?]", count / 2)
  local digits = ffi.cast("const uint8_t *", hex) + first - 1
  for index = 0, count / 2 - 1 do
    bytes[index] = DIGIT[digits[2 * index]] * 16 + DIGIT[digits[2 * index + 1]]
  end
  return ffi.string(bytes, count / 2)
end

-- Base64 or base64url, padded or not (as proto3 JSON has it), with nothing else in it and no bits left over.
local function is_base64(text)
  local padding = text:find("^==", -2) and 2 or text:find("^=", -1) and 1 or 0
  local last = #text - padding
  local left = last % 4
  if padding > 0 and #text % 4 ~= 0 or left == 1 then return false end
  local other = text:find("[^%w%+/%-_]")
  if other and other <= last then return false end
  return left == 0 or left == 2 and text:find("^[AQgw]", last) or left == 3 and text:find("^[AEIMQUYcgkosw048]", last)
end

-- The body as the transcoder takes it, or nil and what is wrong. base64: encodes bytes.
local function translated(text, message, base64)
  local strings, encoding = {}, nil
  local fault = walk(text, message, function(kind, first, last, value)
    if kind == ENCODING then encoding = value end
    strings[#strings + 1] = { kind = kind, first = first, last = last, value = value }
  end)
  if fault then return nil, fault end

  local pieces, from = {}, 1
  for _, found in ipairs(strings) do
    local written
    if found.kind == ENCODING then
      written = encoding == "hex" and "base64" or nil
    elseif found.kind == DATA and encoding == "hex" then
      local bytes, wrong = bytes_of_hex(found.value)
      if not bytes then return nil, wrong end
      written = base64(bytes)
    elseif not is_base64(found.value) then
      return nil, (found.kind == DATA and "data" or "signature") .. " is not base64 (RFC 4648)."
    end
    if written then
      pieces[#pieces + 1] = text:sub(from, found.first)
      pieces[#pieces + 1] = written
      from = found.last
    end
  end
  if from == 1 then return text end
  pieces[#pieces + 1] = text:sub(from)
  return table.concat(pieces)
end

local function put(handle, body, text)
  local length = body:setBytes(text)
  if handle:headers():get("content-length") then
    handle:headers():replace("content-length", tostring(length))
  end
end

-- What HTTP carries and gRPC metadata does not: the server's gRPC would refuse the whole call as an internal error.
local function remove_headers_that_are_no_metadata(headers)
  local gone = {}
  for name, value in pairs(headers) do
    if name:find("[^%l%d_%.%-:]") or name:find("%-bin$") or value:find("[^\32-\126]") then gone[#gone + 1] = name end
  end
  for _, name in ipairs(gone) do
    headers:remove(name)
  end
end

function envoy_on_request(handle)
  remove_headers_that_are_no_metadata(handle:headers())
  local message = MESSAGES[handle:metadata():get("message")]
  local body = message and handle:body()
  if not body or body:length() == 0 then return end
  local text = body:getBytes(0, body:length())
  local changed, fault = translated(text, message, function(bytes) return handle:base64Escape(bytes) end)
  if fault then
    handle:respond({ [":status"] = "400" }, fault)
  elseif changed ~= text then
    put(handle, body, changed)
  end
end

-- For errors of gRPC itself, which knows no reasons.
local REASON_OF_STATUS = {
  ["429"] = "REQUEST_TOO_LARGE", ["499"] = "CALL_CANCELLED", ["500"] = "INTERNAL_FAULT", ["501"] = "METHOD_UNKNOWN",
  ["503"] = "SERVER_UNAVAILABLE", ["504"] = "DEADLINE_PASSED",
}
local UNEXPLAINED = '"details":[]}'
local EXPLAINED = '"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s","domain":"popsigner.com"}]}'

function envoy_on_response(handle)
  local status, member = handle:headers():get(":status"), handle:metadata():get("member")
  local reason = REASON_OF_STATUS[status]
  if not reason and not (member and status == "200") then return end
  local body = handle:body()
  if not body then return end
  local text = body:getBytes(0, body:length())
  if reason then
    if text:sub(-#UNEXPLAINED) == UNEXPLAINED then
      put(handle, body, text:sub(1, -#UNEXPLAINED - 1) .. EXPLAINED:format(reason))
    end
  else
    local opening = '{"' .. member .. '":'
    if text:sub(1, #opening) == opening then put(handle, body, text:sub(#opening + 1, -2)) end
  end
end
