// The pictures in a zip file, unpacked in the browser one at a time: no archive reaches the server.
"use strict";

class Problem extends Error {
  // A sentence for the reader: `key` of the words, and if it is the file's fault rather than the connection's.
  constructor(key, ofFile = true) {
    super(key);
    this.key = key;
    this.ofFile = ofFile;
  }
}

const END = 0x06054b50, ENTRY = 0x02014b50, LOCAL = 0x04034b50;  // signatures; APPNOTE.TXT 4.3
const LONGEST_END = 22 + 65535;  // bytes of the end of the directory, with its comment
const STORED = 0, DEFLATED = 8;
const CRC_OF_BYTE = Uint32Array.from({ length: 256 }, (_, crc) => {
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

// Return [{name, open}] for the entries of `file` that `wanted(name)`; `open()` gives a File, or throws a Problem.
async function zipEntries(file, wanted, limit) {
  const tail = await bytesOf(file, Math.max(0, file.size - LONGEST_END), file.size);
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== END) at -= 1;
  if (at < 0) throw new Problem("zip_damaged");
  const size = tail.getUint32(at + 12, true), start = tail.getUint32(at + 16, true);
  const directory = await bytesOf(file, start, start + size);
  const entries = [];
  for (let place = 0; place + 46 <= directory.byteLength;) {
    if (directory.getUint32(place, true) !== ENTRY) throw new Problem("zip_damaged");
    const nameLength = directory.getUint16(place + 28, true);
    const name = textOf(directory, place + 46, nameLength);
    if (wanted(name)) {
      const entry = {
        name,
        locked: (directory.getUint16(place + 8, true) & 1) === 1,
        method: directory.getUint16(place + 10, true),
        crc: directory.getUint32(place + 16, true),
        packed: directory.getUint32(place + 20, true),
        size: directory.getUint32(place + 24, true),
        offset: directory.getUint32(place + 42, true),
      };
      entries.push({ name, open: () => unpacked(file, entry, limit) });
    }
    place += 46 + nameLength + directory.getUint16(place + 30, true) + directory.getUint16(place + 32, true);
  }
  return entries;
}

async function unpacked(file, entry, limit) {
  if (entry.locked) throw new Problem("zip_locked");
  if (entry.size > limit) throw new Problem("zip_bomb");
  const head = await bytesOf(file, entry.offset, entry.offset + 30);
  if (head.getUint32(0, true) !== LOCAL) throw new Problem("zip_damaged");
  const start = entry.offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const packed = file.slice(start, start + entry.packed);
  if (packed.size < entry.packed) throw new Problem("zip_damaged");
  let stream = packed.stream();
  if (entry.method !== STORED) {
    if (entry.method !== DEFLATED || typeof DecompressionStream === "undefined") throw new Problem("zip_damaged");
    stream = stream.pipeThrough(new DecompressionStream("deflate-raw"));
  }
  const reader = stream.getReader();
  const parts = [];
  for (let size = 0, crc = ~0; ;) {
    const { done, value } = await reader.read().catch((error) => {  // a TypeError is the unpacker's
      throw new Problem(error instanceof TypeError ? "zip_damaged" : "lost");
    });
    if (done) {
      if (size !== entry.size || ~crc >>> 0 !== entry.crc) throw new Problem("zip_damaged");
      return new File(parts, entry.name);
    }
    size += value.byteLength;
    if (size > limit) {  // the size that the directory states may be a lie
      reader.cancel().catch(() => {});
      throw new Problem("zip_bomb");
    }
    for (const byte of value) crc = CRC_OF_BYTE[(crc ^ byte) & 255] ^ (crc >>> 8);
    parts.push(value);
  }
}

async function bytesOf(file, start, end) {
  const content = await file.slice(start, end).arrayBuffer().catch(() => { throw new Problem("lost"); });
  if (content.byteLength < end - start) throw new Problem("zip_damaged");
  return new DataView(content);
}

function textOf(view, start, length) {
  if (start + length > view.byteLength) throw new Problem("zip_damaged");
  const bytes = new Uint8Array(view.buffer, view.byteOffset + start, length);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {  // an old archive: which letters were meant is not known, but other bytes stay other letters
    return new TextDecoder("windows-1252").decode(bytes);
  }
}
