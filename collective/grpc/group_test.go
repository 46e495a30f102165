package grpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute // for what a loaded machine does late

// fleet is how a test's ranks are set up.
type fleet struct {
	world    int
	ca       *authority // nil in the clear
	budget   int64
	deadline time.Duration
	checksum bool
	by       Transport
	lends    bool // what is sent lies in shared memory
	hosts    int  // ranks say that they are on so many machines, in turn; 0: they say nothing
}

func workerID(r int) string { return fmt.Sprintf("worker-%c", 'a'+r) }

func (f fleet) tls(t testing.TB, id string) *tls.Config {
	if f.ca == nil {
		return nil
	}
	return f.ca.worker(t, id)
}

// listen opens an endpoint per rank. They are closed with the test.
func (f fleet) listen(t testing.TB) ([]*Endpoint, []Peer) {
	t.Helper()
	var eps []*Endpoint
	var peers []Peer
	for r := range f.world {
		ep, err := Listen(context.Background(), Options{Addr: "127.0.0.1:0", TLS: f.tls(t, workerID(r))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := ep.Close(); err != nil {
				t.Errorf("close endpoint: %v", err)
			}
		})
		eps = append(eps, ep)
		p := Peer{ID: workerID(r), Addr: ep.Addr()}
		if f.hosts > 0 {
			p.Host = fmt.Sprint("host-", r%f.hosts)
		}
		peers = append(peers, p)
	}
	return eps, peers
}

func (f fleet) config(t testing.TB, rank int, peers []Peer) Config {
	return Config{
		Job: "job-1", Generation: 3, Rank: rank, Peers: peers,
		Budget: f.budget, Deadline: f.deadline, Checksum: f.checksum, ClientTLS: f.tls(t, workerID(rank)),
		Transport: f.by,
	}
}

// open is a whole generation.
func (f fleet) open(t testing.TB) []collective.Group {
	t.Helper()
	eps, peers := f.listen(t)
	groups := make([]collective.Group, f.world)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for r := range groups {
		wg.Go(func() {
			g, err := eps[r].Join(ctx, f.config(t, r, peers))
			if err != nil {
				t.Error(err)
				return
			}
			groups[r] = g
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, g := range groups {
		for r, p := range g.Stats().Peers {
			if want := f.by; r != g.Rank() && want != "" && p.Transport != string(want) {
				t.Fatalf("rank %d reaches rank %d over %s, want %s", g.Rank(), r, p.Transport, want)
			}
		}
	}
	if f.lends {
		return lend(t, groups)
	}
	return groups
}

func TestGroup(t *testing.T) {
	// With so small a budget most transfers take many chunks and every reduction waits for credit.
	const small = 7 * 16 << 10
	for name, c := range map[string]struct {
		fleet
		worlds []int // nil: all of the suite's; others have fewer, for the race detector's sake
	}{
		"grpc":                     {fleet{by: Stream}, []int{1, 2, 3, 8}},
		"grpc, small budget":       {fleet{by: Stream, budget: small, checksum: true}, []int{4}},
		"grpc, tls":                {fleet{by: Stream, ca: newAuthority(t), checksum: true}, []int{2, 3}},
		"lanes":                    {fleet{by: Lanes}, []int{1, 2, 3, 5}},
		"lanes, small budget":      {fleet{by: Lanes, budget: small, checksum: true}, []int{4}},
		"lanes, tls":               {fleet{by: Lanes, ca: newAuthority(t), checksum: true}, []int{2, 3}},
		"shm":                      {fleet{by: SHM, lends: true}, nil},
		"shm, small budget":        {fleet{by: SHM, lends: true, budget: small, checksum: true}, []int{4}},
		"grpc, 2 hosts":            {fleet{by: Stream, hosts: 2}, []int{4}},
		"shm, 2 hosts":             {fleet{by: SHM, lends: true, hosts: 2}, []int{4, 8}},
		"shm, tls, nothing shared": {fleet{by: SHM, ca: newAuthority(t), checksum: true}, []int{2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			grouptest.Run(t, func(t testing.TB, world int) []collective.Group {
				f := c.fleet
				f.world = world
				return f.open(t)
			}, c.worlds...)
		})
	}
}
