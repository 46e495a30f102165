package grpc

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
	"github.com/zerofleet/zerofleet/kernels"
)

// step is a gather and a reduction of a unit, as a stage-3 step makes them.
func step(t testing.TB, groups []collective.Group, part int) {
	t.Helper()
	var wg sync.WaitGroup
	for r, g := range groups {
		wg.Go(func() {
			w := len(groups)
			dst := collective.Buffer{Bytes: make([]byte, 2*part*w), Type: kernels.BF16}
			own := collective.Buffer{Bytes: dst.Bytes[2*part*r : 2*part*(r+1)], Type: kernels.BF16}
			src := collective.Buffer{Bytes: make([]byte, 4*part*w), Type: kernels.F32}
			for _, p := range []*collective.Pending{
				g.AllGather(t.Context(), "unit", dst, own),
				g.ReduceScatter(t.Context(), "unit", grouptest.NewAccumulator(part), src, 0, w),
			} {
				if err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// What the kernel counts on each socket is what the ranks say they sent: frames, and no byte of tensors beside those of the
// operation. Each pair of ranks, each way, over lanes.
func TestSocketsCarryFramesAlone(t *testing.T) {
	const part = 100 << 10
	f := fleet{world: 3, by: Lanes, checksum: true}
	groups := f.open(t)
	defer closeAll(t, groups)
	type way struct{ tensors, frames, socket uint64 }
	at := func(from, to int) way {
		s := groups[from].Stats().Peers[to]
		return way{s.SentBytes, s.FrameBytesSent, groups[to].Stats().Peers[from].SocketBytesReceived}
	}
	for round := range 3 {
		var before [3][3]way
		for from := range groups {
			for to := range groups {
				if from != to {
					before[from][to] = at(from, to)
				}
			}
		}
		step(t, groups, part)
		for from := range groups {
			for to := range groups {
				if from == to {
					continue
				}
				was := before[from][to]
				// A heartbeat may be under way at either end of the round.
				var tensors, frames, socket uint64
				waitFor(t, func() bool {
					now := at(from, to)
					tensors, frames, socket = now.tensors-was.tensors, now.frames-was.frames, now.socket-was.socket
					return frames == socket
				})
				if want := uint64(part * (2 + 4)); tensors != want || frames > tensors+tensors/100 {
					t.Errorf("round %d: rank %d sent rank %d %d bytes of tensors in %d of frames, want %d and a hundredth more at most", round, from, to, tensors, frames, want)
				}
				t.Logf("round %d, rank %d to %d: %d bytes of tensors, %d of frames, %d on its sockets", round, from, to, tensors, frames, socket)
			}
		}
	}
}

// Of a peer's memory a rank touches what the operation gives it and no more, and its sockets carry none of it.
func TestSegmentsAreReadWhereTheOperationSays(t *testing.T) {
	const part = 512 << 10 // elements
	f := fleet{world: 2, by: SHM}
	shared := lend(t, f.open(t))
	groups := []collective.Group{shared[0], shared[1]}
	before := touched(t)
	reads := groups[0].Stats().Peers[1].ReceivedBytes
	step(t, groups, part)
	read := groups[0].Stats().Peers[1].ReceivedBytes - reads
	if want := uint64(part * (2 + 4)); read != want {
		t.Errorf("rank 0 counted %d bytes read of rank 1's memory, want %d", read, want)
	}
	// Both ranks are in this process: each has mapped the other's memory for reading.
	pages := touched(t) - before
	sent := uint64(0)
	for r, g := range groups {
		sent += g.Stats().Peers[1-r].ReceivedBytes
	}
	// The kernel maps up to 16 pages around one that is touched: at most as many beside each end of each piece.
	if slack := uint64(4 * 2 * 16 * os.Getpagesize()); pages < sent || pages > sent+slack {
		t.Errorf("%d bytes of pages of lent memory were touched, want %d, or at most %d more", pages, sent, slack)
	}
	for r, g := range groups {
		s := g.Stats().Peers[1-r]
		if over := s.FrameBytesSent - s.SentBytes; s.SocketBytesSent != 0 || over > 4<<10 {
			t.Errorf("rank %d: %d bytes on TCP sockets, %d of frames beside tensors: want 0 and few", r, s.SocketBytesSent, over)
		}
	}
	t.Logf("segments of %d bytes; %d read, %d touched", lentBytes, sent, pages)
}

// touched is how much of the memory that this process has mapped for reading alone, of other processes' or its own files of memory,
// is in its page table.
func touched(t testing.TB) (n uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	lent := false
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var kib uint64
		switch line := s.Text(); {
		case strings.Contains(line, "memfd:test"):
			lent = strings.Contains(line, " r--s ")
		case strings.Contains(line, " /") || strings.Contains(line, "-p "):
			lent = false
		case lent && strings.HasPrefix(line, "Rss:"):
			if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); err != nil {
				t.Fatal(err)
			}
			n += kib << 10
			lent = false
		}
	}
	return n
}

func closeAll(t testing.TB, groups []collective.Group) {
	t.Helper()
	var wg sync.WaitGroup
	for _, g := range groups {
		wg.Go(func() {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
