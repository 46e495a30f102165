package data

import (
	"crypto/sha256"
	"encoding/binary"
)

// Document is what a record becomes: its tokens, and for each whether it counts
// in the loss when the token before it predicts it. Counts has as many elements
// as Tokens. The first token is predicted by nothing and never counts.
type Document struct {
	Tokens []int32
	Counts []bool
}

// trains tells whether any token counts.
func (d Document) trains() bool {
	for i := 1; i < len(d.Counts); i++ {
		if d.Counts[i] {
			return true
		}
	}
	return false
}

// counted marks a token of the store that counts.
const counted = 1 << 31

// store keeps all documents end to end, four bytes a token: bit 31 says that the
// token counts, the rest is its id.
type store struct {
	tokens []uint32
	ends   []int64 // ends[i] is where document i ends
}

func (s *store) add(d Document) {
	for i, id := range d.Tokens {
		t := uint32(id)
		if d.Counts[i] && i > 0 {
			t |= counted
		}
		s.tokens = append(s.tokens, t)
	}
	s.ends = append(s.ends, int64(len(s.tokens)))
}

// join puts o's documents after s's own.
func (s *store) join(o store) {
	base := int64(len(s.tokens))
	s.tokens = append(s.tokens, o.tokens...)
	for _, e := range o.ends {
		s.ends = append(s.ends, base+e)
	}
}

func (s *store) records() int64 { return int64(len(s.ends)) }

func (s *store) start(i int64) int64 {
	if i == 0 {
		return 0
	}
	return s.ends[i-1]
}

func (s *store) length(i int64) int { return int(s.ends[i] - s.start(i)) }

// document is a view of document i, marks included.
func (s *store) document(i int64) []uint32 { return s.tokens[s.start(i):s.ends[i]] }

// digest is the SHA-256 of every document: its length as a little-endian
// uint64, then its marked tokens as little-endian uint32.
func (s *store) digest() [sha256.Size]byte {
	h := sha256.New()
	var buf []byte
	for i := range s.records() {
		doc := s.document(i)
		buf = binary.LittleEndian.AppendUint64(buf[:0], uint64(len(doc)))
		for _, t := range doc {
			buf = binary.LittleEndian.AppendUint32(buf, t)
		}
		h.Write(buf)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
