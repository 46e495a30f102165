package grpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/zerofleet/zerofleet/collective"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// What a caller says of itself and of the generation is checked, in the clear and under TLS.
func TestHandshakeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*pb.CollectiveHello)
		code codes.Code
		want string
	}{
		"version":      {func(h *pb.CollectiveHello) { h.Version = 9 }, codes.InvalidArgument, "version 9 of the protocol: this rank speaks 1"},
		"job":          {func(h *pb.CollectiveHello) { h.Job = "job-2" }, codes.InvalidArgument, `a caller of job "job-2": this is job "job-1"`},
		"generation":   {func(h *pb.CollectiveHello) { h.Generation = 2 }, codes.FailedPrecondition, "generation 2 is over: this rank is in generation 3"},
		"world":        {func(h *pb.CollectiveHello) { h.World = 3 }, codes.InvalidArgument, "a world of 3 ranks: this rank knows 2"},
		"rank":         {func(h *pb.CollectiveHello) { h.FromRank = 1 }, codes.InvalidArgument, "rank 1 calls rank 1"},
		"no such rank": {func(h *pb.CollectiveHello) { h.FromRank = 1 << 31 }, codes.InvalidArgument, "rank 2147483648 calls rank 1"},
		"target":       {func(h *pb.CollectiveHello) { h.ToRank, h.ToId = 0, "worker-x" }, codes.InvalidArgument, `a call for rank 0 (worker-x): this is rank 1 (worker-b)`},
		"id":           {func(h *pb.CollectiveHello) { h.FromId = "worker-x" }, codes.PermissionDenied, `worker "worker-x" as rank 0: that is worker "worker-a"`},
		"checksum":     {func(h *pb.CollectiveHello) { h.Checksum = true }, codes.InvalidArgument, "checksums true: this rank has false"},
		"chunk bytes":  {func(h *pb.CollectiveHello) { h.ChunkBytes = 100 }, codes.InvalidArgument, "chunks of 100 bytes: want a power of two"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fleet{world: 2}
			eps, peers := f.listen(t)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() {
				_, err := eps[1].Join(ctx, f.config(t, 1, peers))
				done <- err
			}()
			i := dialAs(t, f, eps[1].Addr(), "worker-a", "worker-b")
			h := goodHello(false)
			c.edit(h)
			err := i.hello(h)
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s: %s", err, c.code, c.want)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "rank 0 (worker-a) at "+peers[0].Addr+" is missing: it has not called") {
				t.Errorf("join: got %v, want context.Canceled and that rank 0 is missing", err)
			}
		})
	}
}

// A second connection in a peer's name is refused; the first goes on.
func TestSecondConnectionIsRefused(t *testing.T) {
	g, first := withImpostor(t, fleet{})
	other := dialAs(t, fleet{}, first.cc.Target(), "worker-a", "worker-b")
	if err := other.hello(goodHello(false)); status.Code(err) != codes.AlreadyExists {
		t.Errorf("got %v, want AlreadyExists", err)
	}
	p := g.AllGather(context.Background(), "x", f32(2), f32(1))
	first.post(gatherOp(1, "x", 1))
	first.data(1, 0, make([]byte, 4))
	if err := within(t, p); err != nil {
		t.Errorf("the first connection: %v", err)
	}
}

// Under TLS a certificate of the job's authority is needed, and must name the worker.
func TestTLSIdentity(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	f := fleet{world: 2, ca: ca}
	join := func(t *testing.T, listenAs, callAs string, by *authority) (rank0, rank1 error) {
		t.Helper()
		var eps [2]*Endpoint
		var peers []Peer
		for r := range eps {
			id := workerID(r)
			if r == 1 {
				id = listenAs
			}
			ep, err := Listen(context.Background(), Options{Addr: "127.0.0.1:0", TLS: ca.worker(t, id)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ep.Close() })
			eps[r] = ep
			peers = append(peers, Peer{ID: workerID(r), Addr: ep.Addr()})
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var errs [2]error
		var wg sync.WaitGroup
		for r := range eps {
			wg.Go(func() {
				c := f.config(t, r, peers)
				if r == 0 {
					c.ClientTLS = by.worker(t, callAs)
					c.ClientTLS.RootCAs = ca.pool
				}
				_, errs[r] = eps[r].Join(ctx, c)
			})
		}
		wg.Wait()
		return errs[0], errs[1]
	}
	for _, c := range []struct {
		name, listenAs, callAs string
		by                     *authority
		want0, want1           string
	}{
		{"right", "worker-b", "worker-a", ca, "", ""},
		{"callee is another worker", "worker-x", "worker-a", ca, `wrong identity: a certificate of "worker-x", want one of worker "worker-b"`, "it has not called"},
		{"caller is another worker", "worker-b", "worker-x", ca, `wrong identity: a certificate of "worker-x", want one of worker "worker-a"`, "it has not called"},
		{"caller is a stranger", "worker-b", "worker-a", stranger, "rank 1 (worker-b) at .* is missing", "it has not called"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err0, err1 := join(t, c.listenAs, c.callAs, c.by)
			for r, e := range []struct {
				got  error
				want string
			}{{err0, c.want0}, {err1, c.want1}} {
				if e.want == "" && e.got != nil {
					t.Errorf("rank %d: %v", r, e.got)
				}
				if e.want != "" && (e.got == nil || !regexp.MustCompile(strings.NewReplacer("(", `\(`, ")", `\)`).Replace(e.want)).MatchString(e.got.Error())) {
					t.Errorf("rank %d: got %v, want %q", r, e.got, e.want)
				}
			}
		})
	}
	if _, err := Listen(context.Background(), Options{Addr: "127.0.0.1:0", TLS: &tls.Config{Certificates: ca.worker(t, "a").Certificates}}); err == nil || !strings.Contains(err.Error(), "ClientCAs") {
		t.Errorf("listening without ClientCAs: got %v, want an error", err)
	}
}

// Ranks may come in any order; who comes first waits.
func TestJoinInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		f := fleet{world: 3}
		eps, peers := f.listen(t)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var wg sync.WaitGroup
		for _, r := range order {
			entered := make(chan struct{})
			wg.Go(func() {
				close(entered)
				g, err := eps[r].Join(ctx, f.config(t, r, peers))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := g.Exchange(ctx, nil); err != nil {
					t.Error(err)
				}
			})
			<-entered
		}
		wg.Wait()
		cancel()
	}
}

// Joining the next generation ends the one before, on every rank, and needs no new endpoint.
// Who comes late to an older generation is told.
func TestGenerations(t *testing.T) {
	f := fleet{world: 3}
	eps, peers := f.listen(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	join := func(generation uint64, ranks ...int) []collective.Group {
		groups := make([]collective.Group, len(ranks))
		var members []Peer
		for _, r := range ranks {
			members = append(members, peers[r])
		}
		var wg sync.WaitGroup
		for i, r := range ranks {
			wg.Go(func() {
				c := f.config(t, i, members)
				c.Generation = generation
				g, err := eps[r].Join(ctx, c)
				if err != nil {
					t.Error(err)
					return
				}
				groups[i] = g
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		return groups
	}
	old := join(1, 0, 1, 2)
	waiting := old[1].AllGather(ctx, "block.3", f32(3), f32(1))
	next := join(2, 0, 2) // rank 1 is left out, and is waiting
	for r, p := range []*collective.Pending{
		old[0].AllReduce(ctx, "x", f32(1)), waiting, old[2].AllReduce(ctx, "x", f32(1)),
	} {
		if err := within(t, p); !errors.Is(err, collective.ErrFenced) {
			t.Errorf("generation 1, rank %d: got %v, want ErrFenced", r, err)
		}
	}
	for i, g := range next {
		if g.Generation() != 2 || g.Rank() != i || g.Size() != 2 {
			t.Errorf("got rank %d of %d in generation %d, want %d of 2 in 2", g.Rank(), g.Size(), g.Generation(), i)
		}
	}
	// An endpoint does not go back, and neither do its peers.
	if _, err := eps[0].Join(ctx, f.config(t, 0, peers[:1])); err != nil {
		t.Errorf("generation 3 alone: %v", err)
	}
	c := f.config(t, 0, peers[:1])
	c.Generation = 2
	if _, err := eps[0].Join(ctx, c); !errors.Is(err, collective.ErrFenced) {
		t.Errorf("back to generation 2: got %v, want ErrFenced", err)
	}
	c = f.config(t, 0, []Peer{peers[1], peers[2]})
	c.Generation = 1
	if _, err := eps[1].Join(ctx, c); !errors.Is(err, collective.ErrFenced) {
		t.Errorf("generation 1 again: got %v, want ErrFenced", err)
	}
	// The callee's refusal says so too: worker-b may call worker-c for generation 2, which
	// worker-c left.
	if err := next[1].Close(); err != nil {
		t.Error(err)
	}
	late := f.config(t, 0, []Peer{peers[2]})
	late.Generation = 5
	if _, err := eps[2].Join(ctx, late); err != nil {
		t.Fatal(err)
	}
	c.Generation = 4
	if _, err := eps[1].Join(ctx, c); !errors.Is(err, collective.ErrFenced) || !strings.Contains(err.Error(), "rank 1 (worker-c): generation 4 is over: this rank is in generation 5") {
		t.Errorf("generation 4 with a rank in 5: got %v, want ErrFenced by rank 1", err)
	}
}

// Join's error names every rank that is missing, and why.
func TestJoinNamesTheMissing(t *testing.T) {
	f := fleet{world: 3}
	eps, peers := f.listen(t)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	peers[2].Addr = nobody.Addr().String()
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err = eps[1].Join(ctx, f.config(t, 1, peers))
	want := `^join generation 3 of job job-1 as rank 1: rank 0 \(worker-a\) at .* is missing: it has not called; rank 2 \(worker-c\) at .* is missing: .*connection refused.*: context deadline exceeded$`
	if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestConfigValidate(t *testing.T) {
	err := Config{Rank: 3, Peers: []Peer{{ID: "a", Addr: "x:1"}, {ID: "a", Addr: "x:2"}, {}}}.Validate()
	want := "job: empty\nrank: 3 of 3 peers: want a rank below their number\npeers[1]: id \"a\" is rank 0's too\npeers[2]: id \"\", address \"\": want both"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	ep, err := Listen(context.Background(), Options{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	_, err = ep.Join(context.Background(), Config{Job: "j", Generation: 1, Peers: []Peer{{ID: "a"}}, ClientTLS: ca.worker(t, "a")})
	if err == nil || !strings.Contains(err.Error(), "tls: this rank listens with it and calls without, or the reverse") {
		t.Errorf("got %v, want an error about tls", err)
	}
	if err := ep.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ep.Join(context.Background(), Config{Job: "j", Generation: 1, Peers: []Peer{{ID: "a"}}}); err == nil {
		t.Error("joined with a closed endpoint")
	}
}

// A port in use is an error, at once.
func TestListenFails(t *testing.T) {
	eps, _ := fleet{world: 1}.listen(t)
	if _, err := Listen(context.Background(), Options{Addr: eps[0].Addr()}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want address already in use", err)
	}
}
