package coordinator

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// ofLives is a generation of lives "ID#INCARNATION", in order.
func ofLives(number uint64, lives ...string) membership.Generation {
	g := membership.Generation{Number: number}
	for rank, l := range lives {
		m := membership.Member{Rank: rank, Addr: "here:1"}
		if _, err := fmt.Sscanf(l, "%1s#%d", &m.ID, &m.Incarnation); err != nil {
			panic(err)
		}
		g.Members = append(g.Members, m)
	}
	return g
}

// etcdOf is what etcd knows of a run: its newest generation, settled, and the lives in it.
func etcdOf(g membership.Generation) store.View {
	v := store.View{Run: store.Run{Max: 3}, Generation: g, Settled: g, Mark: membership.Mark{Settled: g.Number}, Registrations: map[string]store.Worker{},
		Incarnations: map[string]uint64{}, Processes: map[string]store.Process{}, Finished: map[string]store.Finished{}}
	if g.Number > 1 {
		v.Mark.Over, v.Mark.Why = g.Number-1, "it is over"
	}
	for i, m := range g.Members {
		v.Registrations[m.ID] = store.Worker{ID: m.ID, Incarnation: m.Incarnation, PID: 100 + i}
		v.Incarnations[m.ID] = m.Incarnation
		v.Processes[m.ID] = store.Process{ID: m.ID, PID: 100 + i}
	}
	return v
}

// tells is the word of a life that has seen g, of which settled is so.
func tells(life string, g membership.Generation, settled uint64) teller {
	m := ofLives(1, life).Members[0]
	t := teller{worker: store.Worker{ID: m.ID, Incarnation: m.Incarnation, PID: 100},
		known: membership.Known{Generation: g, Mark: membership.Mark{Settled: settled, Over: settled - 1, Why: "it is over"}}}
	if g.Number == settled {
		t.known.Settled = g
	}
	return t
}

func nowhere(store.Worker) (store.Process, bool) { return store.Process{}, false }

func TestWhatEtcdLacks(t *testing.T) {
	one := ofLives(1, "0#1", "1#1", "2#1")
	two := ofLives(2, "0#1", "2#1")
	three := ofLives(3, "0#1", "2#1", "1#2")
	other := ofLives(3, "0#1", "2#1")
	three2, three3 := tells("0#1", three, 2), tells("2#1", three, 3)
	three2.known.Settled = two
	three3.known.Instruction = membership.Instruction{Sequence: 7, Kind: membership.Reconfigure}
	three3.known.Fingerprint, three3.known.FingerprintOf = "bits", "0"
	early := etcdOf(membership.Generation{})
	resumed := etcdOf(ofLives(6, "0#4"))
	resumed.Run.After = 5
	for _, c := range []struct {
		name   string
		etcd   store.View
		told   []teller
		events testimony
		want   store.Lacking
		wrong  string
	}{
		{name: "nothing", etcd: etcdOf(three), told: []teller{tells("0#1", three, 3), tells("2#1", two, 2), tells("1#2", three, 3)},
			events: testimony{lives: map[string]uint64{"0": 1, "1": 2}}},
		{name: "nothing that is told", etcd: etcdOf(one)},
		{name: "the newest wins", etcd: etcdOf(one), told: []teller{tells("0#1", two, 2), three3}, want: store.Lacking{
			Generation: three, Settled: three, Mark: membership.Mark{Settled: 3, Over: 2, Why: "it is over"}, Incarnations: map[string]uint64{"1": 2},
			Instruction: three3.known.Instruction, Fingerprint: store.Fingerprint{Value: "bits", Worker: "0"},
			Unheard: []store.Worker{{ID: "1", Incarnation: 2, Addr: "here:1", Registered: noon}}}},
		{name: "the settled generation's record comes from who has it", etcd: etcdOf(one), told: []teller{three2, tells("1#2", three, 2)}, want: store.Lacking{
			Generation: three, Settled: two, Mark: membership.Mark{Settled: 2, Over: 1, Why: "it is over"}, Incarnations: map[string]uint64{"1": 2},
			Heard: []store.Worker{{ID: "1", Incarnation: 2, PID: 100, Registered: noon}}}},
		{name: "a mark alone", etcd: etcdOf(one), told: []teller{{worker: store.Worker{ID: "0", Incarnation: 1}, known: membership.Known{Generation: one,
			Mark: membership.Mark{Settled: 1, Over: 1, Why: "1 died"}}}}, want: store.Lacking{Mark: membership.Mark{Settled: 1, Over: 1, Why: "1 died"}}},
		{name: "everything", etcd: early, told: []teller{tells("0#1", three, 3), tells("2#1", three, 3), tells("1#2", three, 3)}, want: store.Lacking{
			Generation: three, Settled: three, Mark: membership.Mark{Settled: 3, Over: 2, Why: "it is over"},
			Incarnations: map[string]uint64{"0": 1, "1": 2, "2": 1},
			Heard: []store.Worker{{ID: "0", Incarnation: 1, PID: 100, Registered: noon}, {ID: "2", Incarnation: 1, PID: 100, Registered: noon},
				{ID: "1", Incarnation: 2, PID: 100, Registered: noon}}}},
		{name: "a worker that waits", etcd: etcdOf(two), told: []teller{tells("1#2", two, 2)}, want: store.Lacking{
			Incarnations: map[string]uint64{"1": 2}, Heard: []store.Worker{{ID: "1", Incarnation: 2, PID: 100, Registered: noon}}}},
		{name: "a life that is over", etcd: etcdOf(three), told: []teller{tells("1#1", one, 1)}},
		{name: "lives that events alone tell of", etcd: etcdOf(one), events: testimony{lives: map[string]uint64{"0": 1, "1": 4}}, want: store.Lacking{
			Incarnations: map[string]uint64{"1": 4}}},
		{name: "a worker of an earlier run", etcd: resumed, told: []teller{tells("1#9", ofLives(5, "1#9"), 5)}, want: store.Lacking{
			Incarnations: map[string]uint64{"1": 9}}},
		{name: "two of one number", etcd: etcdOf(one), told: []teller{tells("0#1", three, 2), tells("2#1", other, 2)},
			wrong: "generation 3: worker 0 and worker 2 know two different ones"},
		{name: "another than etcd's", etcd: etcdOf(other), told: []teller{tells("0#1", three, 3)}, wrong: "generation 3: etcd and worker 0 know two different ones"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := lacking(c.etcd, c.told, c.events, nowhere, noon)
			if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Fatalf("got %v, want %q", err, c.wrong)
			}
			if len(got.Incarnations) == 0 {
				got.Incarnations = nil
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if got.Empty() != reflect.DeepEqual(got, store.Lacking{}) {
				t.Errorf("empty %v: %+v", got.Empty(), got)
			}
		})
	}
}

// A worker's process that this machine's launcher started is taken up in the place of the one that etcd names.
func TestALivingProcessIsTakenUp(t *testing.T) {
	one, two := ofLives(1, "0#1", "1#1"), ofLives(3, "0#1", "1#2")
	here := func(w store.Worker) (store.Process, bool) { return store.Process{ID: w.ID, PID: w.PID, Start: 5}, true }
	was, is := tells("0#1", two, 3), tells("1#2", two, 3)
	is.worker.PID = 200
	k, err := lacking(etcdOf(one), []teller{was, is}, testimony{}, here, noon)
	if want := []store.Process{{ID: "1", PID: 200, Start: 5, Started: noon}}; err != nil || !reflect.DeepEqual(k.Processes, want) {
		t.Errorf("got %+v, %v, want %+v", k.Processes, err, want)
	}
}

func TestTheNewestCheckpointThatAnybodyTellsOf(t *testing.T) {
	three := ofLives(3, "0#1")
	last := tells("0#1", three, 3)
	last.known.Committed, last.known.CommittedIn = 20, 3
	for _, c := range []struct {
		etcd, after uint64
		told        []teller
		events      testimony
		step        uint64
	}{
		{etcd: 10, step: 0},
		{etcd: 10, events: testimony{checkpoint: 10, checkpointIn: 1}, step: 0},
		{etcd: 10, events: testimony{checkpoint: 15, checkpointIn: 2}, step: 15},
		{etcd: 10, told: []teller{last}, events: testimony{checkpoint: 15, checkpointIn: 2}, step: 20},
		{etcd: 10, told: []teller{last}, events: testimony{checkpoint: 25, checkpointIn: 3}, step: 25},
		{etcd: 10, after: 2, events: testimony{checkpoint: 15, checkpointIn: 2}, step: 0}, // an earlier run's
		{etcd: 30, told: []teller{last}, step: 0},
	} {
		v := etcdOf(three)
		v.Run.After, v.Manifest.Step = c.after, c.etcd
		if step, _ := committed(v, c.told, c.events); step != c.step {
			t.Errorf("etcd %d, told %+v, events %+v: got step %d, want %d", c.etcd, c.told, c.events, step, c.step)
		}
	}
}

func TestWhoIsAwaited(t *testing.T) {
	one, three := ofLives(1, "0#1", "1#1", "2#1"), ofLives(3, "0#1", "2#1", "1#2")
	ends := func(ids string) func(store.Process) bool {
		return func(p store.Process) bool { return strings.Contains(ids, p.ID) }
	}
	unregistered := etcdOf(ofLives(1, "0#1", "1#1"))
	unregistered.Processes["2"] = store.Process{ID: "2", PID: 102}
	removed := etcdOf(one)
	removed.Registrations["2"] = store.Worker{ID: "2", Incarnation: 1, Removed: true}
	finished := etcdOf(one)
	finished.Finished["2"] = store.Finished{Incarnation: 1}
	for _, c := range []struct {
		name   string
		etcd   store.View
		told   []teller
		asking map[string]bool
		events testimony
		ended  string // processes
		want   string
	}{
		{name: "all", etcd: etcdOf(one), want: "0 1 2"},
		{name: "who was not heard", etcd: etcdOf(one), told: []teller{tells("0#1", one, 1)}, want: "1 2"},
		{name: "not who is dead", etcd: etcdOf(one), told: []teller{tells("0#1", one, 1)}, ended: "1", want: "2"},
		{name: "not who is fenced", etcd: removed, want: "0 1"},
		{name: "not who has finished", etcd: finished, want: "0 1"},
		{name: "a process that is not registered yet", etcd: unregistered, want: "0 1 2"},
		{name: "until it asks to be", etcd: unregistered, asking: map[string]bool{"2": true}, want: "0 1"},
		{name: "or ends", etcd: unregistered, ended: "2", want: "0 1"},
		// Worker 1 has died since, and is back as another process: that the one that etcd knows has ended says nothing.
		{name: "another life than etcd knows", etcd: etcdOf(one), told: []teller{tells("0#1", three, 3)}, ended: "1", want: "1 2"},
		{name: "a life that events tell of", etcd: etcdOf(one), told: []teller{tells("0#1", one, 1)}, events: testimony{lives: map[string]uint64{"1": 2, "3": 1}}, ended: "1", want: "1 2 3"},
		{name: "not one that etcd has counted", etcd: etcdOf(one), events: testimony{lives: map[string]uint64{"1": 1}}, ended: "1 2", want: "0"},
		{name: "nobody", etcd: etcdOf(one), told: []teller{tells("0#1", three, 3), tells("2#1", three, 3), tells("1#2", three, 3)}, want: ""},
	} {
		if got := strings.Join(awaited(c.etcd, c.told, c.asking, c.events, ends(c.ended)), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// Once the job has gone on, a worker that comes late and knows another generation is fenced; one that knows the same has what it
// has told before kept, if etcd does not have it.
func TestWhoComesLate(t *testing.T) {
	dir := t.TempDir()
	e, err := startEtcd(t.Context(), filepath.Join(dir, "etcd"), filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
	}()
	l, err := store.New(e.client, localJob).Lead(t.Context(), t.Name(), true)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{store: l.Store, suspects: newSuspects(nil)}
	if _, err := l.Register(t.Context(), store.Worker{ID: "0", Nonce: []byte("0")}, time.Hour, noon); err != nil {
		t.Fatal(err)
	}
	three := ofLives(3, "0#1")
	if err := l.PutGeneration(t.Context(), 0, three, func(membership.Member) bool { return false }); err != nil {
		t.Fatal(err)
	}
	id := &zerofleetv1.Identity{Id: "0", Incarnation: 1}
	promise := func(n uint64) *zerofleetv1.PromiseRequest {
		return &zerofleetv1.PromiseRequest{Worker: id, Generation: n, Why: fmt.Sprint("of ", n)}
	}
	for _, c := range []struct {
		knows    membership.Generation
		promised uint64
		kept     uint64
		fenced   bool
	}{
		{knows: membership.Generation{}},
		{knows: ofLives(2, "0#1", "1#1"), promised: 2, kept: 2},
		{knows: three, promised: 3, kept: 3},
		{knows: three, promised: 2, kept: 3}, // told late
		{knows: ofLives(3, "0#1", "1#1"), kept: 3, fenced: true},
		{knows: ofLives(4, "0#1"), kept: 3, fenced: true},
	} {
		k := &zerofleetv1.Known{Generation: c.knows.Proto()}
		if c.promised > 0 {
			k.Promise = promise(c.promised)
		}
		err := s.retold(t.Context(), id, k)
		if errors.Is(err, store.ErrNotRegistered) != c.fenced || err != nil && !c.fenced {
			t.Errorf("knows %+v: %v, want it fenced %v", c.knows, err, c.fenced)
		}
		v, err := s.store.View(t.Context())
		if err != nil || v.Promises["0"].Generation != c.kept || v.Registrations["0"].Removed != c.fenced {
			t.Errorf("knows %+v: promise %+v, removed %v, %v; want that of generation %d, removed %v", c.knows, v.Promises["0"], v.Registrations["0"].Removed, err, c.kept, c.fenced)
		}
		if c.fenced { // its next life
			w, err := l.Register(t.Context(), store.Worker{ID: "0", Nonce: []byte(fmt.Sprint(c.knows))}, time.Hour, noon)
			if err != nil {
				t.Fatal(err)
			}
			id.Incarnation = w.Incarnation
			if err := s.store.PutPromise(t.Context(), "0", membership.Promise{Incarnation: w.Incarnation, Generation: 3}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Resign(); err != nil {
		t.Error(err)
	}
}
