package grpc

import (
	"context"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels/memfd"
)

// lending is a Group whose callers' data lies in memory that its peers read: what is sent is copied there first, each time
// to a place of its own.
type lending struct {
	collective.Group
	mu   sync.Mutex
	mem  []byte
	used int
}

const lentBytes = 64 << 20

// lend makes Groups send from shared memory.
func lend(t testing.TB, groups []collective.Group) []collective.Group {
	t.Helper()
	out := make([]collective.Group, len(groups))
	for r, g := range groups {
		b, fd, err := memfd.New("test", lentBytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Share(b, fd); err != nil {
			t.Fatal(err)
		}
		l := &lending{Group: g, mem: b}
		t.Cleanup(func() { // after the suite has closed the Group: cleanups run last to first
			if err := g.Close(); err != nil {
				t.Error(err)
			}
			if err := memfd.Unmap(b); err != nil {
				t.Error(err)
			}
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		})
		out[r] = l
	}
	return out
}

func (l *lending) put(b collective.Buffer) collective.Buffer {
	if len(b.Bytes) == 0 {
		return b
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := (len(b.Bytes) + 63) / 64 * 64
	if l.used+n > len(l.mem) {
		panic("the test sends more than it has shared")
	}
	to := l.mem[l.used : l.used+len(b.Bytes) : l.used+len(b.Bytes)]
	copy(to, b.Bytes)
	l.used += n
	return collective.Buffer{Bytes: to, Type: b.Type}
}

func (l *lending) AllGather(ctx context.Context, name string, dst, shard collective.Buffer) *collective.Pending {
	return l.Group.AllGather(ctx, name, dst, l.put(shard))
}

func (l *lending) ReduceScatter(ctx context.Context, name string, acc collective.Accumulator, src collective.Buffer, firstLeaf, contributors int) *collective.Pending {
	return l.Group.ReduceScatter(ctx, name, acc, l.put(src), firstLeaf, contributors)
}

func (l *lending) Send(ctx context.Context, name string, to int, src collective.Buffer) *collective.Pending {
	return l.Group.Send(ctx, name, to, l.put(src))
}
