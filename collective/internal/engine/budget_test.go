package engine

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
)

// pipe is a link to an Engine of the same process, which takes one frame at a time from each stream.
type pipe struct {
	to     *Engine
	from   int
	frames [2]chan *frame.Frame
	once   sync.Once
	closed chan struct{}
	wg     sync.WaitGroup
}

func newPipe(to *Engine, from int) *pipe {
	p := &pipe{to: to, from: from, closed: make(chan struct{})}
	for i := range p.frames {
		p.frames[i] = make(chan *frame.Frame)
		p.wg.Go(func() {
			for {
				select {
				case f := <-p.frames[i]:
					to.Deliver(from, i == 1, f)
				case <-p.closed:
					to.Lost(from, i == 1, errors.New("the peer closed it"))
					return
				}
			}
		})
	}
	return p
}

func (p *pipe) Send(bulk bool, f *frame.Outgoing) error {
	b, err := f.Encode(frame.Buffers)
	if err != nil {
		return err
	}
	defer b.Free()
	got, err := frame.Decode(b)
	if err != nil {
		return err
	}
	i := 0
	if bulk {
		i = 1
	}
	select {
	case p.frames[i] <- got:
		return nil
	case <-p.closed:
		got.Free()
		return errors.New("closed")
	}
}
func (p *pipe) ChunkBytes() int   { return p.to.ChunkBytes() }
func (p *pipe) Lends([]byte) bool { return false }
func (p *pipe) Fresh() bool       { return true }
func (p *pipe) Close()            { p.once.Do(func() { close(p.closed) }) }

// newWorld is a generation of Engines in this process. They are closed with the test.
func newWorld(t *testing.T, world int, alter func(*Config)) []*Engine {
	t.Helper()
	engines := make([]*Engine, world)
	ids := make([]string, world)
	for r := range ids {
		ids[r] = fmt.Sprint("worker-", r)
	}
	for r := range engines {
		c := Config{Job: "job", Generation: 1, Rank: r, IDs: ids, Budget: 64 << 20, Deadline: time.Hour}
		alter(&c)
		var err error
		if engines[r], err = New(c); err != nil {
			t.Fatal(err)
		}
	}
	var pipes []*pipe
	for r, e := range engines {
		links := make([]Link, world)
		for q, other := range engines {
			if q != r {
				p := newPipe(other, r)
				links[q], pipes = p, append(pipes, p)
			}
		}
		e.Start(links)
	}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, e := range engines {
			wg.Go(func() { _ = e.Close() })
		}
		wg.Wait()
		for _, p := range pipes {
			p.Close()
			p.wg.Wait()
		}
	})
	return engines
}

// pace lets one rank fold once for each hundred times that another one does.
type pace struct {
	mu      sync.Mutex
	changed sync.Cond
	folds   int // by the others
	over    bool
}

type paced struct {
	*grouptest.Accumulator
	pace *pace
	slow bool
	own  int
}

func (a *paced) Fold(leaf, off int, src []byte, t kernels.DType) error {
	p := a.pace
	p.mu.Lock()
	if a.slow {
		for p.folds < 100*a.own && !p.over {
			p.changed.Wait()
		}
		a.own++
	} else {
		p.folds++
		p.changed.Broadcast() // the test waits too
	}
	p.mu.Unlock()
	return a.Accumulator.Fold(leaf, off, src, t)
}

// budgetWorld is how many ranks take part.
var budgetWorld = 64

// Sixty-four ranks reduce onto each other, and the first is a hundred times slower: what it holds that it has not folded
// stays within its budget, and so does what the others may send it.
func TestBudgetAt64Ranks(t *testing.T) {
	const (
		n      = 2 << 10 // elements of a slice
		rounds = 3
	)
	world := budgetWorld
	budget := int64(world * minPeerBudget)
	engines := newWorld(t, world, func(c *Config) { c.Budget = budget })
	slow := &pace{}
	slow.changed.L = &slow.mu
	accs := make([]*paced, world)
	var others, first []*collective.Pending
	for r, e := range engines {
		accs[r] = &paced{Accumulator: grouptest.NewAccumulator(n), pace: slow, slow: r == 0}
		src := collective.Buffer{Bytes: make([]byte, 4*n*world), Type: kernels.F32}
		term, _ := floats(src.Bytes)
		for i := range term {
			term[i] = float32((i*7+r*13)%64 - 20)
		}
		for round := range rounds {
			p := e.ReduceScatter(t.Context(), "unit", accs[r], src, round*world, world)
			if r == 0 {
				first = append(first, p)
			} else {
				others = append(others, p)
			}
		}
	}
	// What the others fold is over before rank 0 has folded a tenth of its own; they end when it has taken theirs.
	wantFolds := (world - 1) * rounds * world * ((n + engines[0].foldElems() - 1) / engines[0].foldElems())
	slow.mu.Lock()
	for slow.folds < wantFolds {
		slow.changed.Wait()
	}
	mostFolds := accs[0].own
	slow.over = true
	slow.changed.Broadcast()
	slow.mu.Unlock()
	for _, p := range append(first, others...) {
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for r, e := range engines {
		s := e.Stats()
		if s.PeakGrantedBytes > budget || s.PeakBufferedBytes > budget || s.GrantedBytes != 0 || s.BufferedBytes != 0 {
			t.Errorf("rank %d: granted %d bytes at most, %d at the end; buffered %d at most, %d at the end: want at most %d and 0",
				r, s.PeakGrantedBytes, s.GrantedBytes, s.PeakBufferedBytes, s.BufferedBytes, budget)
		}
		for i, got := range accs[r].Sum {
			want := 0
			for q := range world {
				want += ((r*n+i)*7+q*13)%64 - 20
			}
			if want *= rounds; math.Float32bits(got) != math.Float32bits(float32(want)) {
				t.Fatalf("rank %d, element %d: got %v, want %v", r, i, got, want)
			}
		}
	}
	s := engines[0].Stats()
	if all := uint64((world - 1) * rounds * 4 * n); s.TotalReceivedBytes() != all || all < uint64(budget) {
		t.Errorf("the slow rank received %d bytes, want %d, and more than its budget", s.TotalReceivedBytes(), all)
	}
	t.Logf("the slow rank: %d folds while the others made %d; granted %d bytes at most, buffered %d at most, of %d that it received; budget %d",
		mostFolds, wantFolds, s.PeakGrantedBytes, s.PeakBufferedBytes, s.TotalReceivedBytes(), budget)
}
