package frame

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"sync"

	"github.com/zeebo/xxh3"
	"google.golang.org/grpc/mem"
)

// hashers keeps streaming hash states, a kilobyte each.
var hashers = sync.Pool{New: func() any { return xxh3.New() }}

// JobHash is how frames name a job.
func JobHash(job string) uint64 {
	s := sha256.Sum256([]byte(job))
	return binary.LittleEndian.Uint64(s[:])
}

// Buffers is a pool for frames and what gRPC reads them into. Unlike gRPC's own it gives buffers as they were left: they are
// always filled from end to end, and to clear them first takes a sixth of a stream's time.
var Buffers mem.BufferPool = &buffers{}

// largestTier is the power of two of the longest buffer that is kept: all of a frame.
const largestTier = 21

// buffers keeps buffers by size, powers of two.
type buffers struct{ tiers [largestTier + 1]sync.Pool }

// Get is mem.BufferPool's.
func (p *buffers) Get(n int) *[]byte {
	tier := bits.Len(uint(max(n, 1) - 1))
	if tier > largestTier {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.tiers[tier].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<tier)
	return &b
}

// Put is mem.BufferPool's.
func (p *buffers) Put(b *[]byte) {
	tier := bits.Len(uint(max(cap(*b), 1) - 1))
	if tier <= largestTier && cap(*b) == 1<<tier {
		p.tiers[tier].Put(b)
	}
}
