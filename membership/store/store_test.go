package store

import (
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/zerofleet/zerofleet/membership"
)

// etcd is a real one, of one member, in this process.
func etcd(t *testing.T) *clientv3.Client {
	t.Helper()
	nowhere := url.URL{Scheme: "unix", Host: "store-test:0"}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = t.TempDir(), "error", []string{t.TempDir() + "/log"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{nowhere}, []url.URL{nowhere}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 20, 200
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Server.ReadyNotify()
	c := v3client.New(e.Server)
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, t.Context().Err()) {
			t.Error(err)
		}
		e.Close()
	})
	return c
}

// leads takes the lead of a job, and gives it up with the test.
func leads(t *testing.T, s *Store) *Leader {
	t.Helper()
	l, err := s.Lead(t.Context(), t.Name(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.session.Orphan() })
	return l
}

func register(t *testing.T, s *Store, id string) Worker {
	t.Helper()
	w, err := s.Register(t.Context(), Worker{ID: id, Addr: "127.0.0.1:1", Nonce: []byte(fmt.Sprint(id, time.Now().UnixNano()))}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// generation is of these workers, in this order.
func generation(number uint64, workers ...Worker) membership.Generation {
	g := membership.Generation{Number: number}
	for rank, w := range workers {
		g.Members = append(g.Members, membership.Member{ID: w.ID, Incarnation: w.Incarnation, Rank: rank})
	}
	return g
}

func nobody(membership.Member) bool { return false }

// A coordinator that stood still while another took its place decides nothing any more, whatever it is about to write.
func TestAFormerLeaderDecidesNothing(t *testing.T) {
	s := New(etcd(t), "job")
	old := leads(t, s)
	w := register(t, s, "0")
	if err := old.PutGeneration(t.Context(), 0, generation(1, w), nobody); err != nil {
		t.Fatal(err)
	}
	now := leads(t, s)
	before, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func(l *Leader) error{
		"generation": func(l *Leader) error { return l.PutGeneration(t.Context(), 1, generation(2, w), nobody) },
		"mark": func(l *Leader) error {
			return l.PutMark(t.Context(), membership.Mark{Settled: 1}, membership.Member{ID: "0", Incarnation: 1})
		},
		"instruction": func(l *Leader) error { return l.PutInstruction(t.Context(), membership.Stop, "") },
		"process":     func(l *Leader) error { return l.PutProcess(t.Context(), Process{ID: "0"}) },
		"run":         func(l *Leader) error { return l.PutRun(t.Context(), Run{Job: "other"}) },
		"outcome":     func(l *Leader) error { return l.PutOutcome(t.Context(), Outcome{State: StateDone}) },
	} {
		if err := do(old); !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s by the former leader: %v, want ErrNotLeader", what, err)
		}
	}
	after, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Generation.Number != before.Generation.Number || after.Mark != before.Mark || after.Instruction != before.Instruction ||
		len(after.Processes) > 0 || after.Run.Job != before.Run.Job || after.Outcome != nil || after.Registrations["0"].Removed {
		t.Errorf("the former leader has changed something: %+v", after)
	}
	if err := now.PutGeneration(t.Context(), 1, generation(2, w), nobody); err != nil {
		t.Errorf("the new leader: %v", err)
	}
}

// Two plans that were made from the same generation: the second is refused, also when one coordinator made both.
func TestAGenerationFollowsTheNewest(t *testing.T) {
	s := New(etcd(t), "job")
	l := leads(t, s)
	w := register(t, s, "0")
	for _, c := range []struct {
		previous, number uint64
		conflict         bool
	}{{0, 1, false}, {0, 1, true}, {1, 2, false}, {1, 2, true}, {0, 3, true}, {2, 3, false}} {
		err := l.PutGeneration(t.Context(), c.previous, generation(c.number, w), nobody)
		if errors.Is(err, ErrConflict) != c.conflict || err != nil && !c.conflict {
			t.Errorf("generation %d after %d: %v, want a conflict %v", c.number, c.previous, err, c.conflict)
		}
	}
	if err := l.PutGeneration(t.Context(), 3, generation(3, w), nobody); err == nil {
		t.Error("generation 3 after 3 is written")
	}
}

// Who is left out of a generation is fenced with it, or with the mark of the first that is settled without it.
func TestWhoLeavesIsFenced(t *testing.T) {
	s := New(etcd(t), "job")
	l := leads(t, s)
	a, b, c := register(t, s, "a"), register(t, s, "b"), register(t, s, "c")
	if err := l.PutGeneration(t.Context(), 0, generation(1, a, b, c), nobody); err != nil {
		t.Fatal(err)
	}
	if err := l.PutGeneration(t.Context(), 1, generation(2, a), func(m membership.Member) bool { return m.ID == "c" }); err != nil {
		t.Fatal(err)
	}
	wants := func(when string, w Worker, fenced bool) {
		t.Helper()
		err := s.Renew(t.Context(), w.ID, w.Incarnation, time.Hour)
		if errors.Is(err, ErrNotRegistered) != fenced || err != nil && !fenced {
			t.Errorf("%s: renew %s: %v, want it fenced %v", when, w.ID, err, fenced)
		}
	}
	wants("left out", a, false)
	wants("left out", b, true)
	wants("left out, and still needed", c, false)
	if err := l.PutMark(t.Context(), membership.Mark{Settled: 2}, membership.Member{ID: "c", Incarnation: c.Incarnation}); err != nil {
		t.Fatal(err)
	}
	wants("settled", a, false)
	wants("settled without it", c, true)
	if again := register(t, s, "c"); again.Incarnation != c.Incarnation+1 {
		t.Errorf("incarnation %d comes back as %d", c.Incarnation, again.Incarnation)
	}
	wants("its next life is registered", c, true)
}

// A lease that ended because nobody could renew it is granted again, unless the job has gone on without the worker.
func TestALeaseThatEnded(t *testing.T) {
	client := etcd(t)
	s := New(client, "job")
	l := leads(t, s)
	a, b := register(t, s, "a"), register(t, s, "b")
	if err := l.PutGeneration(t.Context(), 0, generation(1, a, b), nobody); err != nil {
		t.Fatal(err)
	}
	for _, w := range []Worker{a, b} {
		if _, err := client.Revoke(t.Context(), clientv3.LeaseID(w.Lease)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Renew(t.Context(), "a", 1, time.Hour); err != nil {
		t.Errorf("renew a: %v", err)
	}
	if v, err := s.View(t.Context()); err != nil || v.Workers["a"].Incarnation != 1 || v.Workers["b"].ID != "" {
		t.Errorf("workers %v, %v, want a alone", v.Workers, err)
	}
	if err := l.PutGeneration(t.Context(), 1, generation(2, a), nobody); err != nil {
		t.Fatal(err)
	}
	if err := s.Renew(t.Context(), "b", 1, time.Hour); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("renew b, which a generation was written without: %v, want ErrNotRegistered", err)
	}
}

func TestRegister(t *testing.T) {
	s := New(etcd(t), "job")
	now := time.Now()
	first, err := s.Register(t.Context(), Worker{ID: "a", Nonce: []byte("one")}, time.Hour, now)
	if err != nil || first.Incarnation != 1 {
		t.Fatalf("got %+v, %v", first, err)
	}
	again, err := s.Register(t.Context(), Worker{ID: "a", Nonce: []byte("one")}, time.Hour, now.Add(time.Second))
	if err != nil || again.Incarnation != 1 || again.Lease != first.Lease {
		t.Errorf("the same process again: %+v, %v, want the same registration", again, err)
	}
	if _, err := s.Register(t.Context(), Worker{ID: "a", Nonce: []byte("two")}, time.Hour, now); !errors.Is(err, ErrTaken) {
		t.Errorf("another process with the same id: %v, want ErrTaken", err)
	}
	if err := s.PutPromise(t.Context(), "a", membership.Promise{Incarnation: 1, Generation: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	next, err := s.Register(t.Context(), Worker{ID: "a", Nonce: []byte("two")}, time.Hour, now)
	if err != nil || next.Incarnation != 2 {
		t.Errorf("the next process: %+v, %v, want incarnation 2", next, err)
	}
	if v, err := s.View(t.Context()); err != nil || len(v.Promises) > 0 {
		t.Errorf("promises %v, %v: those of its life before are still there", v.Promises, err)
	}
}

// A checkpoint exists by one transaction that compares the generation and the newest step.
func TestCommitManifest(t *testing.T) {
	s := New(etcd(t), "job")
	l := leads(t, s)
	w := register(t, s, "0")
	if err := l.PutGeneration(t.Context(), 0, generation(1, w), nobody); err != nil {
		t.Fatal(err)
	}
	if err := l.PutGeneration(t.Context(), 1, generation(2, w), nobody); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		step, generation uint64
		bytes            string
		committed        bool
	}{
		{5, 1, "of a generation that is over", false},
		{5, 2, "x", true},
		{5, 2, "x", true}, // the answer was lost, and it is asked again
		{5, 2, "y", true}, // of the same step, which has one state
		{4, 2, "z", false},
		{6, 3, "of a generation that is not there", false},
		{6, 2, "w", true},
	} {
		committed, why, err := s.CommitManifest(t.Context(), Manifest{Step: c.step, Generation: c.generation, Bytes: []byte(c.bytes)})
		if err != nil || committed != c.committed || committed == (why != "") {
			t.Errorf("step %d of generation %d: committed %v (%s), %v; want %v", c.step, c.generation, committed, why, err, c.committed)
		}
	}
}

// What an etcd lacks that was restored from an older copy is written at once, or not at all.
func TestComplete(t *testing.T) {
	s := New(etcd(t), "job")
	l := leads(t, s)
	a, b := register(t, s, "a"), register(t, s, "b")
	if err := l.PutGeneration(t.Context(), 0, generation(1, a, b), nobody); err != nil {
		t.Fatal(err)
	}
	newer, waits := b, Worker{ID: "c", Incarnation: 3}
	newer.Incarnation = 2
	k := Lacking{Generation: generation(4, a, newer), Settled: generation(3, a), Mark: membership.Mark{Settled: 3, Over: 3, Why: "b joins"},
		Instruction: membership.Instruction{Sequence: 9, Kind: membership.Reconfigure, Why: "b joins"}, Fingerprint: Fingerprint{Value: "bits", Worker: "a"},
		Manifest: Manifest{Step: 20, Generation: 3, Stored: 20}, Heard: []Worker{waits}, Unheard: []Worker{newer}, Processes: []Process{{ID: "b", PID: 7}},
		Incarnations: map[string]uint64{"b": 2, "c": 3}}
	if err := l.Complete(t.Context(), 2, k, time.Hour); !errors.Is(err, ErrConflict) {
		t.Errorf("from another generation: %v, want ErrConflict", err)
	}
	if v, err := s.View(t.Context()); err != nil || v.Generation.Number != 1 || len(v.Registrations) != 2 {
		t.Errorf("it has changed something: %+v, %v", v, err)
	}
	if err := l.Complete(t.Context(), 1, k, time.Hour); err != nil {
		t.Fatal(err)
	}
	v, err := s.View(t.Context())
	if err != nil || !v.Generation.Equal(k.Generation) || !v.Settled.Equal(k.Settled) || v.Mark != k.Mark || v.Instruction != k.Instruction || v.Fingerprint != k.Fingerprint ||
		v.Manifest.Step != 20 || v.Registrations["b"].Incarnation != 2 || v.Workers["c"].Incarnation != 3 || v.Workers["b"].ID != "" || v.Processes["b"].PID != 7 {
		t.Errorf("got %+v, %v, want %+v", v, err, k)
	}
	// What follows counts on from it.
	for id, n := range map[string]uint64{"b": 2, "c": 3} {
		if err := s.Renew(t.Context(), id, n, time.Hour); err != nil {
			t.Errorf("renew %s: %v", id, err)
		}
	}
	if err := l.PutInstruction(t.Context(), membership.Stop, ""); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Instruction(t.Context()); err != nil || i.Sequence != 10 {
		t.Errorf("instruction %+v, %v, want sequence 10", i, err)
	}
	if err := l.PutGeneration(t.Context(), 1, generation(5, a), nobody); !errors.Is(err, ErrConflict) {
		t.Errorf("a generation after 1: %v, want ErrConflict", err)
	}
	if w, err := s.Registered(t.Context(), "c", 3); err != nil || s.Remove(t.Context(), w) != nil {
		t.Fatal(err)
	}
	if again := register(t, s, "c"); again.Incarnation != 4 {
		t.Errorf("the next life of c is %d, want 4", again.Incarnation)
	}
}

// An instruction's number is higher than that of any before, also of those that a generation has carried out and etcd forgotten.
func TestInstructionsAreCounted(t *testing.T) {
	s := New(etcd(t), "job")
	l := leads(t, s)
	w := register(t, s, "0")
	g := generation(1, w)
	g.Handled = 5
	if err := l.PutGeneration(t.Context(), 0, g, nobody); err != nil {
		t.Fatal(err)
	}
	for want := uint64(6); want < 8; want++ {
		if err := l.PutInstruction(t.Context(), membership.Checkpoint, "asked for"); err != nil {
			t.Fatal(err)
		}
		if i, err := s.Instruction(t.Context()); err != nil || i != (membership.Instruction{Sequence: want, Kind: membership.Checkpoint, Why: "asked for"}) {
			t.Errorf("got %+v, %v, want sequence %d", i, err, want)
		}
	}
}

// A life that etcd does not know, since it began after the copy was made, is fenced, and nobody else lives it.
func TestALifeThatEtcdDoesNotKnow(t *testing.T) {
	s := New(etcd(t), "job")
	register(t, s, "a")
	for id, lived := range map[string]uint64{"a": 4, "b": 2} {
		if err := s.Renew(t.Context(), id, lived, time.Hour); !errors.Is(err, ErrNotRegistered) {
			t.Errorf("renew %s: %v, want ErrNotRegistered", id, err)
		}
	}
	if w, err := s.Registered(t.Context(), "a", 1); err != nil || s.Remove(t.Context(), w) != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]uint64{"a": 5, "b": 3} {
		if w := register(t, s, id); w.Incarnation != want {
			t.Errorf("the next life of %s is %d, want %d", id, w.Incarnation, want)
		}
	}
}
