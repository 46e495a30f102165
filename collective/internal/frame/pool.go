package frame

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/zeebo/xxh3"
)

// hashers keeps streaming hash states, a kilobyte each.
var hashers = sync.Pool{New: func() any { return xxh3.New() }}

// JobHash is how frames name a job.
func JobHash(job string) uint64 {
	s := sha256.Sum256([]byte(job))
	return binary.LittleEndian.Uint64(s[:])
}
