package membership

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata")

// Each file of testdata is a history: blocks of commands, and what the planner decides after each, until it has nothing
// more to decide. A decision to write a generation or that one is over is carried out before the planner is asked again.
//
//	job max=4 min=2 [replicas=0] [stage0]  what the run is
//	workers 0 1 2                          come, loaded and ready
//	loading 4                              comes, and is not ready
//	wait 30s                               time passes
//	built 0 1                              these members' shares are in place
//	settle [0 1]                           all are, and the mark says so; these members know of it, or all do
//	die 2                                  the coordinator sees it
//	lease 2                                ends: not known to be dead, and no longer there
//	promise 0 1 step=7                     with a report of what they hold, at that step if they have trained
//	drain 1 30s                            its machine goes then
//	resize 2                               the job may use so many workers
//	checkpoint 5                           is committed
//	saved                                  the newest generation has written its state to a checkpoint and promises
//	pause, resume                          asked for
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d transcripts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal([]byte(got), want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// play gives a transcript with what is decided now.
func play(t *testing.T, text string) string {
	t.Helper()
	s := &script{now: time.Unix(0, 0).UTC(), lives: map[string]uint64{}, held: map[string][]Held{},
		view: View{Gone: map[string]string{}, Promises: map[string]Promise{}, Replicas: 1, Min: 1}}
	var out []string
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		commands, _, _ := strings.Cut(block, "\n----")
		for line := range strings.Lines(commands) {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			if err := s.command(strings.Fields(line)); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		out = append(out, strings.TrimRight(commands, "\n")+"\n----\n"+s.decide(t))
	}
	return strings.Join(out, "\n")
}

// script is a job whose workers do what they are told.
type script struct {
	now   time.Time
	view  View
	lives map[string]uint64 // incarnations, by id
	held  map[string][]Held // by id: what it has of the settled generation, then of the one that it has built
}

func (s *script) command(f []string) (err error) {
	var args []string
	options := map[string]int{}
	for _, a := range f[1:] {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			args = append(args, a)
		} else if options[name], err = strconv.Atoi(value); err != nil {
			return err
		}
	}
	v := &s.view
	switch f[0] {
	case "job":
		v.Max = options["max"]
		v.Min = max(options["min"], 1)
		if n, ok := options["replicas"]; ok {
			v.Replicas = n
		}
		v.Whole = slices.Contains(args, "stage0")
	case "workers", "loading":
		for _, id := range args {
			if i := slices.IndexFunc(v.Workers, func(c Candidate) bool { return c.ID == id }); i >= 0 {
				v.Workers[i].Ready = f[0] == "workers"
				continue
			}
			s.lives[id]++
			v.Workers = append(v.Workers, Candidate{ID: id, Incarnation: s.lives[id], Registered: s.now, Ready: f[0] == "workers"})
		}
	case "wait":
		d, err := time.ParseDuration(args[0])
		s.now = s.now.Add(d)
		return err
	case "settle":
		s.build()
		for _, m := range v.Current.Members {
			if len(args) == 0 || slices.Contains(args, m.ID) {
				s.held[m.ID] = s.held[m.ID][len(s.held[m.ID])-1:]
			}
		}
		for _, m := range v.Settled.Members {
			s.leave(m)
		}
		v.Mark.Settled, v.Settled = v.Current.Number, v.Current
	case "built":
		s.build(args...)
	case "die", "lease":
		for _, id := range args {
			v.Workers = slices.DeleteFunc(v.Workers, func(c Candidate) bool { return c.ID == id })
			delete(s.held, id)
			if f[0] == "die" {
				v.Gone[id] = "worker " + id + " died"
			}
		}
	case "promise":
		step, trained := options["step"]
		for _, id := range args {
			if held := s.held[id]; trained && len(held) > 0 && int64(step) > held[0].Step {
				h := &held[0]
				h.Step, h.OptimizerStep, h.Cursor.Sample = int64(step), int64(step), 10*int64(step)
				h.Records = make([][]byte, len(v.Settled.Members))
			}
			v.Promises[id] = Promise{Incarnation: s.lives[id], Generation: v.Current.Number, Held: slices.Clone(s.held[id])}
		}
	case "drain":
		d, err := time.ParseDuration(args[1])
		if v.Draining == nil {
			v.Draining = map[string]Drain{}
		}
		v.Draining[args[0]] = Drain{Incarnation: s.lives[args[0]], Deadline: s.now.Add(d), Why: "preempted"}
		return err
	case "resize":
		v.Max, err = strconv.Atoi(args[0])
	case "checkpoint":
		step, err := strconv.ParseUint(args[0], 10, 64)
		v.Restore = &Restore{Step: step}
		return err
	case "saved":
		v.Restore = &Restore{Step: uint64(v.Current.Handover.Step)}
		for _, m := range v.Current.Members {
			if v.Current.Release {
				delete(s.held, m.ID)
			}
			v.Promises[m.ID] = Promise{Incarnation: m.Incarnation, Generation: v.Current.Number, Held: slices.Clone(s.held[m.ID])}
		}
	case "pause", "resume":
		v.Paused = f[0] == "pause"
	default:
		return fmt.Errorf("no such command")
	}
	return err
}

// build puts shares of the newest generation in place: of some members, or of all.
func (s *script) build(ids ...string) {
	g := s.view.Current
	for _, m := range g.Members {
		has := slices.ContainsFunc(s.held[m.ID], func(h Held) bool { return h.Generation == g.Number })
		if has || len(ids) > 0 && !slices.Contains(ids, m.ID) {
			continue
		}
		h := Held{Generation: g.Number, Rank: m.Rank}
		if g.Handover != nil {
			h.Step, h.OptimizerStep, h.Cursor = g.Handover.Step, g.Handover.OptimizerStep, g.Handover.Cursor
		} else if g.Restore != nil {
			h.Step = int64(g.Restore.Step)
		}
		s.held[m.ID] = append(s.held[m.ID], h)
	}
}

// decide asks the planner and does what it says, until it has nothing new to say.
func (s *script) decide(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	v := &s.view
	for range 10 {
		d := Next(*v, s.now)
		switch {
		case d.Next != nil:
			fmt.Fprintf(&out, "%s\n", written(d.Next))
			s.write(*d.Next)
			continue
		case d.Over:
			fmt.Fprintf(&out, "over: %s\n", d.Why)
			v.Mark.Over, v.Mark.Why = v.Current.Number, d.Why
			continue
		case d.Reconfigure:
			fmt.Fprintf(&out, "reconfigure: %s\n", d.Why)
			v.Instruction = Instruction{Sequence: v.Instruction.Sequence + 1, Kind: Reconfigure, Why: d.Why}
			return out.String()
		case d.Suspended:
			fmt.Fprintf(&out, "suspended: %s\n", d.Why)
		case !d.Again.IsZero():
			fmt.Fprintf(&out, "nothing: %s, again in %s\n", d.Why, d.Again.Sub(s.now))
		default:
			fmt.Fprintf(&out, "nothing: %s\n", d.Why)
		}
		return out.String()
	}
	t.Fatalf("the planner does not come to an end:\n%s", out.String())
	return ""
}

// leave lets a worker go that is no member of the newest generation.
func (s *script) leave(m Member) {
	if _, stays := s.view.Current.Rank(m.ID, m.Incarnation); !stays {
		s.view.Workers = slices.DeleteFunc(s.view.Workers, func(c Candidate) bool { return c.ID == m.ID && c.Incarnation == m.Incarnation })
	}
}

// write makes g the newest generation: who was a member and is not in it is let go, at once if it has nothing that may be
// needed.
func (s *script) write(g Generation) {
	v := &s.view
	left := v.Current.Members
	defer func() {
		for _, m := range left {
			if _, holds := v.Settled.Rank(m.ID, m.Incarnation); !holds || g.Handover == nil {
				s.leave(m)
			}
		}
	}()
	for _, m := range g.Members { // what was built for a generation that came to nothing goes
		held := s.held[m.ID]
		s.held[m.ID] = slices.DeleteFunc(held, func(h Held) bool { return g.Handover == nil || h.Generation != g.Handover.Settled })
		for i := range s.held[m.ID] {
			if h := &s.held[m.ID][i]; h.Step < g.Handover.Step {
				h.Step, h.OptimizerStep, h.Records, h.Cursor = g.Handover.Step, g.Handover.OptimizerStep, g.Handover.Records, g.Handover.Cursor
			}
		}
	}
	v.Current, v.Gone = g, map[string]string{}
}

func written(g *Generation) string {
	s := fmt.Sprintf("generation %d:", g.Number)
	switch {
	case g.Release:
		s = fmt.Sprintf("generation %d saves and frees:", g.Number)
	case g.Save:
		s = fmt.Sprintf("generation %d saves:", g.Number)
	}
	for _, m := range g.Members {
		s += fmt.Sprintf(" %d=%s", m.Rank, m.ID)
		if m.Incarnation > 1 {
			s += fmt.Sprintf("(%d)", m.Incarnation)
		}
	}
	switch h := g.Handover; {
	case h != nil:
		s += fmt.Sprintf("; step %d of generation %d", h.Step, h.Settled)
		if h.Records != nil {
			s += " with its records"
		}
		s += fmt.Sprintf(", sample %d; shards", h.Cursor.Sample)
		for old, x := range h.Holders {
			s += fmt.Sprintf(" %d:%d", old, x.Rank)
			if x.Replica {
				s += "'"
			}
		}
	case g.Restore != nil:
		s += fmt.Sprintf("; checkpoint of step %d", g.Restore.Step)
	default:
		s += "; base model"
	}
	return s + "\n  " + g.Why
}

// shrinking is a settled generation of three, all of which have promised, in a job that may now use two.
func shrinking(steps ...int64) View {
	v := View{Max: 2, Min: 1, Replicas: 1, Mark: Mark{Settled: 1, Over: 1}, Gone: map[string]string{}, Promises: map[string]Promise{}}
	v.Current.Number = 1
	for rank, step := range steps {
		id := fmt.Sprint(rank)
		h := Held{Generation: 1, Rank: rank, Step: step}
		if step > 0 {
			h.Records = make([][]byte, len(steps))
		}
		v.Current.Members = append(v.Current.Members, Member{ID: id, Incarnation: 1, Rank: rank})
		v.Workers = append(v.Workers, Candidate{ID: id, Incarnation: 1})
		v.Promises[id] = Promise{Incarnation: 1, Generation: 1, Held: []Held{h}}
	}
	v.Settled = v.Current
	return v
}

// kill makes a member dead.
func kill(v *View, id string) {
	v.Gone[id] = "died"
	v.Workers = slices.DeleteFunc(v.Workers, func(c Candidate) bool { return c.ID == id })
	delete(v.Promises, id)
}

// All three send their records, worker 2 commits the step and promises, and its peers fail before they have all records.
// Worker 2 leaves, and its step was to be made again, although its report had the records to complete it from.
func TestAStepThatOnlyALeaverHasCommittedIsKept(t *testing.T) {
	g := Next(shrinking(0, 0, 1), time.Time{}).Next
	if g == nil || g.Handover == nil || g.Handover.Step != 1 || len(g.Handover.Records) != 3 || len(g.Members) != 2 {
		t.Fatalf("got %+v, want two members at step 1", g)
	}
}

// Worker 0 of four dies in a job that may now use two. Worker 3 was let go by its rank alone, though worker 0, its buddy,
// had the only other copy of its shard: back to a checkpoint for nothing.
func TestNobodyLeavesWhoseBuddyIsDead(t *testing.T) {
	v := shrinking(1, 1, 1, 1)
	kill(&v, "0")
	g := Next(v, time.Time{}).Next
	if g == nil || g.Handover == nil {
		t.Fatalf("got %+v, want the state of three survivors", g)
	}
	if _, stays := g.Rank("3", 1); !stays {
		t.Errorf("members %v: worker 3 has left", g.Members)
	}
}

// Worker 0 of three dies in a job that may now use two. Worker 2 left all the same, since there had been three.
func TestNobodyLeavesAJobThatHasRoom(t *testing.T) {
	v := shrinking(1, 1, 1)
	kill(&v, "0")
	if g := Next(v, time.Time{}).Next; g == nil || g.Handover == nil || len(g.Members) != 2 {
		t.Fatalf("got %+v, want workers 1 and 2", g)
	}
}

// Without replicas nothing can be served for a rank that leaves. A job must come down to its size all the same.
func TestAJobWithoutReplicasShrinks(t *testing.T) {
	v := shrinking(1, 1, 1)
	v.Replicas, v.Restore = 0, &Restore{Step: 1}
	if g := Next(v, time.Time{}).Next; g == nil || len(g.Members) != 2 || g.Restore == nil {
		t.Fatalf("got %+v, want two workers and the checkpoint", g)
	}
}

// Rank 0 has found that a replica differs from its shard; rank 1 has not heard of that when its part ends, and holds a
// whole state that the damage may be in.
func TestNothingIsBuiltFromADistrustedState(t *testing.T) {
	for distrusts := range 2 {
		v := shrinking(1, 1)
		v.Restore = &Restore{Step: 1}
		if g := Next(v, time.Time{}).Next; g == nil || g.Handover == nil {
			t.Fatalf("got %+v, want the state that both hold", g)
		}
		p := v.Promises[fmt.Sprint(distrusts)]
		p.Held = slices.Clone(p.Held)
		p.Held[0].Distrusted = true
		v.Promises[fmt.Sprint(distrusts)] = p
		g := Next(v, time.Time{}).Next
		if g == nil || g.Handover != nil || g.Restore == nil || len(g.Members) != 2 || !strings.Contains(g.Why, "not to be trusted: back to the checkpoint of step 1") {
			t.Errorf("rank %d distrusts the state: got %+v", distrusts, g)
		}
	}
}

// A number that anybody was told of is not given again, though etcd, of which an older copy was restored, does not know it.
func TestANumberIsGivenOnce(t *testing.T) {
	v := shrinking(1, 1)
	for _, told := range []uint64{0, 1, 4} {
		v.Told = told
		if g := Next(v, time.Time{}).Next; g == nil || g.Handover == nil || g.Number != max(told, 1)+1 {
			t.Errorf("after generation 1, and %d is told of: %+v", told, g)
		}
	}
	if g := Next(View{Workers: v.Workers, Min: 1, Max: 2, After: 2, Told: 4}, time.Time{}).Next; g == nil || g.Number != 5 {
		t.Errorf("a run's first generation after 4: %+v", g)
	}
}

// Who was in the settled generation may be forgotten, with an older copy of etcd: then nobody can say what is whose.
func TestASettledGenerationThatNobodyKnows(t *testing.T) {
	v := shrinking(1, 1, 1)
	v.Settled, v.Restore = Generation{}, &Restore{Step: 1}
	g := Next(v, time.Time{}).Next
	if g == nil || g.Handover != nil || g.Restore == nil || len(g.Members) != 2 || !strings.Contains(g.Why, "nobody knows any more who the members of generation 1 were: back to the checkpoint of step 1") {
		t.Errorf("got %+v, want two workers and the checkpoint", g)
	}
}
