// Package frame is the data plane's message: a header of 59 bytes, a few bytes of protobuf,
// and a piece of a tensor.
//
//	offset bytes
//	     0     4  magic: "zfc" and the version, 1
//	     4     1  kind
//	     5     1  type of the tensor's elements, 0 for none
//	     6     1  space of the sequence number
//	     7     1  flags
//	     8     8  job: the first 8 bytes of the SHA-256 of its name
//	    16     8  generation
//	    24     8  sequence number
//	    32     4  chunk
//	    36     4  the sender's rank
//	    40     4  length of the meta part, at most MaxMetaBytes
//	    44     4  length of the data part, at most MaxDataBytes
//	    48     8  checksum: xxh3 of bytes 0 to 47, the meta part, and the xxh3 of the data
//	              part, or eight zeros without FlagSummed
//	    56     3  zero
//	    59        meta part, then data part
//
// Numbers are little-endian. With the five bytes that gRPC puts before a message, a header
// without a meta part has 64, so that no element straddles gRPC's pieces of 16 KiB; readers
// must not count on that.
package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/zerofleet/zerofleet/kernels"
)

// Sizes of a frame's parts.
const (
	HeaderBytes  = 59
	MaxMetaBytes = 4 << 10
	MaxDataBytes = 1 << 20
	// MaxBytes is the longest frame.
	MaxBytes = HeaderBytes + MaxMetaBytes + MaxDataBytes

	summedHeaderBytes = 48
)

// Version of the frames, and of the messages in their meta parts.
const Version = 1

var magic = [4]byte{'z', 'f', 'c', Version}

// Kind is what a frame is for. The meta part's message stands in brackets.
type Kind uint8

// The kinds of frame.
const (
	Hello    Kind = iota + 1 // opens a stream [CollectiveHello]
	Welcome                  // accepts it [CollectiveWelcome]
	Post                     // the sender has begun an operation [CollectiveOp]; with FlagEager, its data
	Data                     // one chunk of an operation's data
	Credit                   // the receiver of it may send the chunks below Chunk
	Progress                 // heartbeat [CollectiveProgress]
	Leave                    // the sender's membership ends [CollectiveLeave]
	Ack                      // the peer's Leave has arrived, and all before it
	Taken                    // what was lent for an operation has been read
	Answer                   // how a caller means to carry frames, of what a Welcome offered [CollectiveAnswer]
	lastKind = Answer
)

var kindNames = [...]string{"none", "hello", "welcome", "post", "data", "credit", "progress", "leave", "ack", "taken", "answer"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("frame kind %d", uint8(k))
}

// Space is what a sequence number counts.
type Space uint8

// The spaces of sequence numbers.
const (
	Collective Space = iota // the operations of the whole group
	Second                  // their second phases, under the same numbers
	Pair                    // the transfers of one ordered pair of ranks
	Row                     // the parts of operations that go by levels, within a host
	lastSpace  = Row
)

// Inner reports whether operations of s are parts of others: begun by the engine, in an order that may differ between ranks.
func (s Space) Inner() bool { return s == Second || s == Row }

// Flags of a frame.
const (
	FlagSummed uint8 = 1 << iota // the checksum covers the data part
	FlagEager                    // a Post that brings the operation's data with it
	FlagLent                     // a Data frame that says where its bytes are, in memory that the receiver can read
	knownFlags = FlagSummed | FlagEager | FlagLent
)

// Header is what stands before every frame's payload.
type Header struct {
	Kind       Kind
	Type       kernels.DType
	Space      Space
	Flags      uint8
	Job        uint64
	Generation uint64
	Seq        uint64
	Chunk      uint32
	Rank       uint32
	MetaBytes  uint32
	DataBytes  uint32
	Sum        uint64
}

// put writes the header without its checksum.
func (h *Header) put(b *[HeaderBytes]byte) {
	copy(b[:4], magic[:])
	b[4], b[5], b[6], b[7] = byte(h.Kind), byte(h.Type), byte(h.Space), h.Flags
	le := binary.LittleEndian
	le.PutUint64(b[8:], h.Job)
	le.PutUint64(b[16:], h.Generation)
	le.PutUint64(b[24:], h.Seq)
	le.PutUint32(b[32:], h.Chunk)
	le.PutUint32(b[36:], h.Rank)
	le.PutUint32(b[40:], h.MetaBytes)
	le.PutUint32(b[44:], h.DataBytes)
	clear(b[48:])
}

// parseHeader reads and validates a header; that the lengths are those of the frame is for
// the caller to check.
func parseHeader(b *[HeaderBytes]byte) (Header, error) {
	if [3]byte(b[:3]) != [3]byte(magic[:3]) {
		return Header{}, fmt.Errorf("frame begins with % x, want % x", b[:4], magic)
	}
	if b[3] != Version {
		return Header{}, fmt.Errorf("frame of version %d, want %d", b[3], Version)
	}
	le := binary.LittleEndian
	h := Header{
		Kind: Kind(b[4]), Type: kernels.DType(b[5]), Space: Space(b[6]), Flags: b[7],
		Job: le.Uint64(b[8:]), Generation: le.Uint64(b[16:]), Seq: le.Uint64(b[24:]),
		Chunk: le.Uint32(b[32:]), Rank: le.Uint32(b[36:]), MetaBytes: le.Uint32(b[40:]), DataBytes: le.Uint32(b[44:]),
		Sum: le.Uint64(b[48:]),
	}
	switch {
	case h.Kind == 0 || h.Kind > lastKind:
		return h, fmt.Errorf("%s: want 1 to %d", h.Kind, lastKind)
	case h.Type != 0 && h.Type.Bytes() == 0:
		return h, fmt.Errorf("%s frame of type %s: no such type", h.Kind, h.Type)
	case h.Space > lastSpace:
		return h, fmt.Errorf("%s frame in space %d: want 0 to %d", h.Kind, h.Space, lastSpace)
	case h.Flags&^knownFlags != 0:
		return h, fmt.Errorf("%s frame with flags %#x: want none but %#x", h.Kind, h.Flags, knownFlags)
	case h.Flags&FlagLent != 0 && h.Kind != Data:
		return h, fmt.Errorf("%s frame that lends: want %s", h.Kind, Data)
	case h.MetaBytes > MaxMetaBytes:
		return h, fmt.Errorf("%s frame with a meta part of %d bytes: want at most %d", h.Kind, h.MetaBytes, MaxMetaBytes)
	case h.DataBytes > MaxDataBytes:
		return h, fmt.Errorf("%s frame with %d bytes of data: want at most %d", h.Kind, h.DataBytes, MaxDataBytes)
	case b[56]|b[57]|b[58] != 0:
		return h, fmt.Errorf("%s frame with % x at the header's end: want zeros", h.Kind, b[56:])
	}
	return h, nil
}

// sum is the checksum of a frame whose header stands in b.
func sum(b *[HeaderBytes]byte, meta []byte, dataSum uint64) uint64 {
	var small [256]byte
	s := append(small[:0], b[:summedHeaderBytes]...)
	s = append(s, meta...)
	s = binary.LittleEndian.AppendUint64(s, dataSum)
	return xxh3.Hash(s)
}
