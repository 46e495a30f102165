package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

// A large gather sends each part once to each host, whatever order the ranks are in, and gives what a direct one gives; a small
// one goes straight.
func TestGatherByLevels(t *testing.T) {
	for name, hosts := range map[string][]string{
		"2 hosts of 2":    {"a", "b", "a", "b"},
		"3 hosts of 2":    {"a", "a", "b", "c", "c", "b"},
		"2 hosts of 3":    {"b", "a", "a", "a", "b", "b"},
		"unequal":         {"a", "a", "a", "b"},
		"one each":        {"a", "b", "c"},
		"one host":        {"a", "a", "a"},
		"nobody asked":    nil,
		"2 hosts, pieces": {"a", "b", "b", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			world := max(len(hosts), 3)
			engines := newWorld(t, world, func(c *Config) { c.Hosts = hosts; c.Budget = int64(world * minPeerBudget) })
			of := map[string]int{}
			for _, h := range hosts {
				of[h]++
			}
			levelled := len(of) > 1
			for _, n := range of {
				levelled = levelled && n == world/len(of) && n > 1
			}
			rng := rand.New(rand.NewPCG(1, 1))
			const rounds = 3
			for _, part := range []int{levelBytes - 1, levelBytes, 3*levelBytes + 7} {
				var all [rounds][]byte
				for i := range all {
					all[i] = make([]byte, world*part)
					for k := range all[i] {
						all[i][k] = byte(rng.Uint32())
					}
				}
				before := make([]collective.Stats, world)
				for r, e := range engines {
					before[r] = e.Stats()
				}
				var wg sync.WaitGroup
				for r, e := range engines {
					wg.Go(func() {
						var dst [rounds][]byte
						var way []*collective.Pending
						for i := range all { // all of them in flight, in place and apart
							dst[i] = make([]byte, world*part)
							own := dst[i][r*part : (r+1)*part]
							if i == 1 {
								own = make([]byte, part)
							}
							copy(own, all[i][r*part:])
							way = append(way, e.AllGather(t.Context(), fmt.Sprint("unit ", i), collective.Buffer{Bytes: dst[i], Type: kernels.U8}, collective.Buffer{Bytes: own, Type: kernels.U8}))
						}
						for i, p := range way {
							if err := p.Wait(t.Context()); err != nil {
								t.Error(err)
							} else if !bytes.Equal(dst[i], all[i]) {
								t.Errorf("rank %d, gather %d: other bytes than were given", r, i)
							}
						}
					})
				}
				wg.Wait()
				for r, e := range engines {
					elsewhere := uint64(0) // sent to other hosts
					for q, p := range e.Stats().Peers {
						if hosts != nil && hosts[q] != hosts[r] {
							elsewhere += p.SentBytes - before[r].Peers[q].SentBytes
						}
					}
					times := 0
					switch {
					case levelled && part >= levelBytes:
						times = len(of) - 1 // once to each
					case hosts != nil:
						times = world - of[hosts[r]]
					}
					if want := uint64(rounds * times * part); elsewhere != want {
						t.Errorf("parts of %d bytes: rank %d sent %d to other hosts, want %d", part, r, elsewhere, want)
					}
					if got, want := e.Stats().Ops[collective.KindAllGather]-before[r].Ops[collective.KindAllGather], uint64(rounds); got != want {
						t.Errorf("rank %d counted %d gathers, want %d", r, got, want)
					}
				}
			}
		})
	}
}

// A reduction by levels sends each host's sum of a slice once to each other host, and gives what a direct one gives, up to the order
// of its additions: here of numbers whose sums are exact. The last round has no leaf for some ranks, or for a whole host.
func TestReduceByLevels(t *testing.T) {
	add := func(acc []float32, src []byte, _ kernels.DType) error {
		terms, _ := floats(src)
		for i, v := range terms {
			acc[i] += v
		}
		return nil
	}
	for name, hosts := range map[string][]string{
		"2 hosts of 2": {"a", "b", "a", "b"},
		"3 hosts of 2": {"a", "a", "b", "c", "c", "b"},
		"2 hosts of 3": {"b", "a", "a", "a", "b", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			world := len(hosts)
			engines := newWorld(t, world, func(c *Config) {
				c.Hosts, c.AnyOrder, c.Fold, c.Budget = hosts, true, add, int64(world*minPeerBudget)
			})
			perHost := 0
			for _, h := range hosts {
				if h == "a" {
					perHost++
				}
			}
			const n = levelBytes/4 + 256
			value := func(leaf, i int) float32 { return float32((leaf*7+i*13)%64 - 20) }
			var wg sync.WaitGroup
			for r, e := range engines {
				wg.Go(func() {
					acc := &sums{sum: make([]float32, n), add: add}
					var way []*collective.Pending
					leaves := 0
					for _, contributors := range []int{world, world - 1, 1, 2} {
						var src collective.Buffer
						if r < contributors {
							src = collective.Buffer{Bytes: make([]byte, 4*n*world), Type: kernels.F32}
							terms, _ := floats(src.Bytes)
							for i := range terms {
								terms[i] = value(leaves+r, i)
							}
						}
						way = append(way, e.ReduceScatter(t.Context(), "unit", acc, src, leaves, contributors))
						leaves += contributors
					}
					for _, p := range way {
						if err := p.Wait(t.Context()); err != nil {
							t.Error(err)
							return
						}
					}
					for i, got := range acc.sum {
						want := float32(0)
						for leaf := range leaves {
							want += value(leaf, r*n+i)
						}
						if got != want {
							t.Errorf("rank %d, element %d: %v, want %v", r, i, got, want)
							return
						}
					}
				})
			}
			wg.Wait()
			for r, e := range engines {
				elsewhere := uint64(0)
				for q, p := range e.Stats().Peers {
					if hosts[q] != hosts[r] {
						elsewhere += p.SentBytes
					}
				}
				// A round in which its host has a leaf: one f32 sum to the rank in its place of each other host.
				rounds := 0
				for _, contributors := range []int{world, world - 1, 1, 2} {
					for q := range contributors {
						if hosts[q] == hosts[r] {
							rounds++
							break
						}
					}
				}
				if want := uint64(rounds * (world/perHost - 1) * 4 * n); elsewhere != want {
					t.Errorf("rank %d sent %d bytes to other hosts, want %d", r, elsewhere, want)
				}
				if s := e.Stats(); s.Ops[collective.KindReduceScatter] != 4 || s.GrantedBytes != 0 || s.BufferedBytes != 0 {
					t.Errorf("rank %d: %d operations, %d bytes granted and %d buffered at the end", r, s.Ops[collective.KindReduceScatter], s.GrantedBytes, s.BufferedBytes)
				}
			}
		})
	}
}

// sums adds whatever comes.
type sums struct {
	sum []float32
	add func([]float32, []byte, kernels.DType) error
}

func (s *sums) Len() int { return len(s.sum) }

func (s *sums) Fold(_, off int, src []byte, t kernels.DType) error {
	return s.add(s.sum[off:off+t.Len(len(src))], src, t)
}

// Without an order nobody waits for a rank that is late: all others' leaves are added before its own. With one they are not.
func TestAnyOrderWaitsForNobodyInTurn(t *testing.T) {
	const n = 4 << 10
	for _, anyOrder := range []bool{false, true} {
		engines := newWorld(t, 3, func(c *Config) { c.AnyOrder = anyOrder })
		acc := make([]*seen, 3)
		var way []*collective.Pending
		add := func(r int) {
			acc[r] = &seen{n: n, all: make(chan int, 64)}
			src := collective.Buffer{Bytes: make([]byte, 3*4*n), Type: kernels.F32}
			way = append(way, engines[r].ReduceScatter(t.Context(), "unit", acc[r], src, 0, 3))
		}
		add(0)
		add(2)
		var order []int
		if anyOrder {
			for range 2 { // rank 0's own and rank 2's, though rank 1 has not come
				order = append(order, <-acc[0].all)
			}
			if fmt.Sprint(order) != "[0 2]" {
				t.Errorf("added leaves %v, want 0 and 2", order)
			}
		} else if leaf := <-acc[0].all; leaf != 0 {
			t.Errorf("added leaf %d first, want 0", leaf)
		}
		add(1)
		for _, p := range way {
			if err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for leaf := range acc[0].drained() {
			order = append(order, leaf)
		}
		if want := map[bool]string{false: "[1 2]", true: "[0 2 1]"}[anyOrder]; fmt.Sprint(order) != want {
			t.Errorf("any order %v: leaves were added in the order %v, want %s", anyOrder, order, want)
		}
	}
}

// seen tells of each leaf that is added.
type seen struct {
	n   int
	all chan int
}

func (s *seen) Len() int { return s.n }

func (s *seen) Fold(leaf, _ int, _ []byte, _ kernels.DType) error {
	s.all <- leaf
	return nil
}

func (s *seen) drained() chan int {
	close(s.all)
	return s.all
}
