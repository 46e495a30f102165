package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zerofleet/zerofleet/membership"
)

// patienceOfTests bounds every wait for another process.
const patienceOfTests = 30 * time.Second

// testJob writes a job file whose run folder is in the same new folder.
func testJob(t *testing.T, steps, workers int, more string) (file, dir string) {
	t.Helper()
	root := t.TempDir()
	text := filepath.Join(root, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("the quick brown fox jumps over the lazy dog\n", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	file, dir = filepath.Join(root, "job.yaml"), filepath.Join(root, "run")
	yaml := fmt.Sprintf(`name: test
model: {base: "preset://tiny"}
data: {train: [{path: %s, format: text}], sequence_len: 64}
train: {steps: %d, global_batch_size: 8, micro_batch_size: 1, precision: f32}
workers: {min: %d, max: %d, orphan_seconds: 1}
output: {dir: %s}
%s
`, text, steps, workers, workers, dir, more)
	if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

// watcher is a View that remembers, and that a test can wait on.
type watcher struct {
	mu     sync.Mutex
	change *sync.Cond
	status *Status
	steps  []uint64
	events []Event
	closed bool
}

func newWatcher() *watcher {
	w := &watcher{}
	w.change = sync.NewCond(&w.mu)
	return w
}

func (w *watcher) did(what func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what()
	w.change.Broadcast()
}

func (w *watcher) Status(s *Status) { w.did(func() { w.status = s }) }
func (w *watcher) Step(l *membership.StepLine) {
	w.did(func() { w.steps = append(w.steps, l.GetStep()) })
}
func (w *watcher) Evaluation(*membership.EvaluationLine) {}
func (w *watcher) Event(e Event)                         { w.did(func() { w.events = append(w.events, e) }) }
func (w *watcher) Close() error                          { w.did(func() { w.closed = true }); return nil }

// await waits until ok holds of what the view has been told.
func (w *watcher) await(t *testing.T, what string, ok func(w *watcher) bool) {
	t.Helper()
	late := false
	timer := time.AfterFunc(patienceOfTests, func() { w.did(func() { late = true }) })
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ok(w) {
		if late || w.closed {
			t.Errorf("waiting for %s: closed %v, late %v; events %v", what, w.closed, late, w.events)
			return
		}
		w.change.Wait()
	}
}

func (w *watcher) event(kind string) *Event {
	for i, e := range w.events {
		if e.Type == kind {
			return &w.events[i]
		}
	}
	return nil
}

// result is how a launch ended.
type result struct {
	exit int
	err  error
}

// launchHere runs Launch in this process.
func launchHere(t *testing.T, o Options) (*watcher, <-chan result) {
	t.Helper()
	w := newWatcher()
	o.View, o.Worker = w, []string{os.Args[0]}
	done := make(chan result, 1)
	go func() {
		exit, err := Launch(context.Background(), o)
		done <- result{exit, err}
	}()
	return w, done
}

// wants waits for a launch's end and checks its status and error.
func wants(t *testing.T, done <-chan result, exit int, words ...string) {
	t.Helper()
	select {
	case r := <-done:
		text := fmt.Sprint(r.err)
		if r.exit != exit || (r.err != nil) != (len(words) > 0) {
			t.Fatalf("exit %d, error %v; want exit %d and an error with %q", r.exit, r.err, exit, words)
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("error %q lacks %q", text, w)
			}
		}
	case <-time.After(patienceOfTests):
		t.Fatal("launch does not end")
	}
}

// metrics reads metrics.jsonl and checks that it holds steps 1 to last, each once and in order.
func checkMetrics(t *testing.T, dir string, last uint64) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "metrics.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var steps []uint64
	for in := bufio.NewScanner(f); in.Scan(); {
		var s stepJSON
		if err := json.Unmarshal(in.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, s.Step)
	}
	ok := uint64(len(steps)) == last
	for i, s := range steps {
		ok = ok && s == uint64(i)+1
	}
	if !ok {
		t.Errorf("metrics.jsonl holds steps %v, want 1 to %d", steps, last)
	}
}

// checkGone checks that no process of the run is left.
func checkGone(t *testing.T, w *watcher) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == nil || len(w.status.GetWorkers()) == 0 {
		t.Fatal("no workers were shown")
	}
	for _, p := range w.status.GetWorkers() {
		if _, alive, err := startTicks(int(p.GetPid())); err != nil || alive {
			t.Errorf("worker %s, process %d, is left running (%v)", p.GetId(), p.GetPid(), err)
		}
	}
}

func stepped(n uint64) func(*watcher) bool {
	return func(w *watcher) bool { return len(w.steps) > 0 && w.steps[len(w.steps)-1] >= n }
}

func leakCheck(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
}

func TestLaunchRunsAJobToItsEnd(t *testing.T) {
	leakCheck(t)
	file, dir := testJob(t, 12, 2, "checkpoint: {every_steps: 5}")
	w, done := launchHere(t, Options{JobFile: file})
	wants(t, done, ExitDone)
	checkMetrics(t, dir, 12)
	checkGone(t, w)
	for name, mode := range map[string]fs.FileMode{
		"control.json": 0o600, "tls/worker.key": 0o600, "tls/worker.pem": 0o600, "job.resolved.yaml": 0o644, "metrics.jsonl": 0o644,
		"events.jsonl": 0o644, "logs/worker-0.log": 0o644, "logs/worker-1.log": 0o644,
		"model/model.safetensors": 0o644, "model/config.json": 0o644, "model/tokenizer.json": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, mode)
		}
	}
	if s := w.status; s.GetState() != "done" || s.GetCheckpointStep() != 12 || s.GetGeneration() != 1 || s.GetNewest().GetStep() != 12 {
		t.Errorf("last status: %v", s)
	}
	for rank, p := range w.status.GetWorkers() {
		if p.GetId() != fmt.Sprint(rank) || p.GetRank() != int32(rank) || p.GetPhase() != membership.Done || p.GetMemoryBytes()["parameters"] != 1000 {
			t.Errorf("worker %d: %v", rank, p)
		}
	}
	resolved, err := os.ReadFile(filepath.Join(dir, "job.resolved.yaml"))
	if err != nil || !strings.Contains(string(resolved), "same bits") {
		t.Errorf("the resolved job lacks the fingerprint (%v)", err)
	}
	if e := w.event("checkpoint"); e == nil || e.Fields["step"] != "5" {
		t.Errorf("first checkpoint event: %v, want step 5", e)
	}

	_, done = launchHere(t, Options{JobFile: file})
	wants(t, done, ExitBadInput, "holds a run that is done", "--resume")
}

func TestAWorkersDeathEndsTheRun(t *testing.T) {
	leakCheck(t)
	for _, c := range []struct {
		name, fake string
		words      []string
	}{
		{"exit", "die=1@3", []string{"worker 1 (rank 1, process ", "died: exit status 7", "about to die", "worker-1.log", "the checkpoint of step", "is kept"}},
		{"failure", "fail=0@2", []string{"worker 0 (rank 0, ", "failed: loss is not a number in tensor model.norm.weight"}},
		{"refusal", "refuse=1", []string{"worker 1 (process", "ended before it was part of a generation: exit status 3", "does not like its job"}},
		{"kernels", "differs=1", []string{"worker 1 (rank 1, ", "computes other bits than worker 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(fakeEnv, c.fake+" pace=20")
			file, _ := testJob(t, 1000, 2, "recovery: {below_min: fail}")
			w, done := launchHere(t, Options{JobFile: file})
			wants(t, done, ExitFailed, c.words...)
			checkGone(t, w)
		})
	}
}

// kill ends a worker's process as a machine that vanishes would.
func (w *watcher) kill(t *testing.T, id int) (pid int) {
	t.Helper()
	w.mu.Lock()
	pid = int(w.status.GetWorkers()[id].GetPid())
	w.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

func settled(generation int) func(*watcher) bool {
	return func(w *watcher) bool {
		for _, e := range w.events {
			if e.Type == "settled" && e.Fields["generation"] == fmt.Sprint(generation) {
				return true
			}
		}
		return false
	}
}

func TestAKilledWorkerIsSurvived(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=20")
	file, dir := testJob(t, 60, 3, "")
	w, done := launchHere(t, Options{JobFile: file, Set: []string{"workers.min=1"}})
	w.await(t, "step 3", stepped(3))
	pid := w.kill(t, 1)
	wants(t, done, ExitDone)
	checkGone(t, w)
	checkMetrics(t, dir, 60)
	if e := w.event("worker_died"); e == nil || e.What != fmt.Sprintf("worker 1 (process %d) died: killed by SIGKILL", pid) {
		t.Errorf("event of the death: %+v", e)
	}
	if !settled(2)(w) || w.status.GetGeneration() != 2 {
		t.Errorf("ended in generation %d, want 2, settled", w.status.GetGeneration())
	}
}

func TestAWorkerThatDiedIsStartedAgainAndJoins(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=20")
	file, dir := testJob(t, 150, 3, "")
	w, done := launchHere(t, Options{JobFile: file, Set: []string{"workers.min=1", "workers.restart=true"}})
	w.await(t, "step 3", stepped(3))
	w.kill(t, 1)
	w.await(t, "three workers again", settled(3))
	w.kill(t, 0)
	w.await(t, "three workers once more", settled(5))
	wants(t, done, ExitDone)
	checkGone(t, w)
	checkMetrics(t, dir, 150)
	for rank, p := range w.status.GetWorkers() {
		if p.GetRank() < 0 || p.GetGeneration() != 5 {
			t.Errorf("worker %d: %v, want it in generation 5", rank, p)
		}
	}
}

func TestWhenAllAreKilledTheLastIsNamed(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=20")
	file, _ := testJob(t, 1000, 2, "")
	w, done := launchHere(t, Options{JobFile: file, Set: []string{"workers.min=1"}})
	w.await(t, "step 3", stepped(3))
	w.kill(t, 1)
	w.await(t, "generation 2", settled(2))
	pid := w.kill(t, 0)
	wants(t, done, ExitFailed, fmt.Sprintf("process %d) died: killed by SIGKILL", pid), "no checkpoint was kept")
	checkGone(t, w)
}

func TestBelowMinIsSuspendedUntilTheUserStopsIt(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=20")
	file, _ := testJob(t, 1000, 2, "checkpoint: {every_steps: 2}")
	interrupts := make(chan os.Signal, 2)
	w, done := launchHere(t, Options{JobFile: file, Interrupts: interrupts})
	w.await(t, "step 5", stepped(5))
	w.kill(t, 1)
	w.await(t, "suspension", func(w *watcher) bool { return w.event("suspended") != nil })
	interrupts <- os.Interrupt
	wants(t, done, ExitInterrupted)
	checkGone(t, w)
}

func TestCtrlCOnceCheckpointsAndResumes(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=20")
	file, dir := testJob(t, 60, 2, "")
	interrupts := make(chan os.Signal, 2)
	w, done := launchHere(t, Options{JobFile: file, Interrupts: interrupts})
	w.await(t, "step 3", stepped(3))
	interrupts <- os.Interrupt
	wants(t, done, ExitInterrupted)
	checkGone(t, w)
	e := w.event("stopped")
	if e == nil || e.Fields["resume"] != "coordinator launch "+file+" --resume "+dir {
		t.Fatalf("stopped event: %+v", e)
	}
	if w.status.GetState() != "interrupted" || w.status.GetCheckpointStep() < 3 {
		t.Errorf("last status %v", w.status)
	}

	t.Setenv(fakeEnv, "pace=1")
	w, done = launchHere(t, Options{JobFile: file, Resume: dir, Set: []string{"workers.max=3"}})
	wants(t, done, ExitDone)
	checkMetrics(t, dir, 60)
	if g := w.event("generation"); g == nil || g.Fields["generation"] != "2" || g.Fields["workers"] != "0 1 2" {
		t.Errorf("generation of the resumed run: %+v, want 2 of 3 workers", g)
	}
}

func TestCtrlCTwiceStopsAtOnce(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=60000")
	file, _ := testJob(t, 60, 2, "")
	interrupts := make(chan os.Signal, 2)
	w, done := launchHere(t, Options{JobFile: file, Interrupts: interrupts})
	w.await(t, "generation 1", func(w *watcher) bool { return w.event("generation") != nil })
	interrupts <- os.Interrupt
	w.await(t, "the instruction", func(w *watcher) bool { return w.event("stopping") != nil })
	interrupts <- os.Interrupt
	wants(t, done, ExitFailed, "interrupted before there was a checkpoint")
	checkGone(t, w)
}

func TestStopAtStopsWithACheckpoint(t *testing.T) {
	leakCheck(t)
	file, dir := testJob(t, 60, 2, "")
	w, done := launchHere(t, Options{JobFile: file, StopAt: 20})
	wants(t, done, ExitDone)
	checkMetrics(t, dir, 20)
	if w.status.GetState() != "stopped" || w.status.GetCheckpointStep() != 20 {
		t.Errorf("last status %v", w.status)
	}
	// A checkpoint resumes in another folder too, and there the metrics begin after it.
	other := filepath.Join(filepath.Dir(dir), "other")
	w, done = launchHere(t, Options{JobFile: file, Resume: filepath.Join(dir, "checkpoints"), Set: []string{"output.dir=" + other}})
	wants(t, done, ExitDone)
	if len(w.steps) != 40 || w.steps[0] != 21 {
		t.Errorf("steps of the resumed run: %v, want 21 to 60", w.steps)
	}
	_, done = launchHere(t, Options{JobFile: file, Resume: dir, Set: []string{"train.steps=70"}})
	wants(t, done, ExitBadInput, "this is a new one", "train.steps")
}

// launchProcess runs a coordinator in a process of its own.
func launchProcess(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"launch"}, args...)...)
	cmd.Stdout, cmd.Stderr = &logWriter{t: t}, &logWriter{t: t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

type logWriter struct{ t *testing.T }

func (l *logWriter) Write(b []byte) (int, error) {
	l.t.Logf("| %s", strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

func launchMain(args []string) {
	flags := flag.NewFlagSet("launch", flag.ExitOnError)
	o := Options{View: NewPlain(os.Stdout, 1), Worker: []string{os.Args[0]}}
	flags.StringVar(&o.JobFile, "job", "", "")
	flags.StringVar(&o.Resume, "resume", "", "")
	if err := flags.Parse(args); err != nil {
		panic(err)
	}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	o.Interrupts = interrupts
	exit, err := Launch(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "coordinator:", err)
	}
	os.Exit(exit)
}

// awaitLine waits until a file of lines has one that ok accepts.
func awaitLine(t *testing.T, path string, ok func(line string) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patienceOfTests)
	for {
		b, err := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			if ok(line) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not get the line (%v): %s", path, err, b)
		}
	}
}

func awaitStep(t *testing.T, dir string, step uint64) {
	t.Helper()
	awaitLine(t, filepath.Join(dir, "metrics.jsonl"), func(line string) bool {
		var s stepJSON
		return json.Unmarshal([]byte(line), &s) == nil && s.Step >= step
	})
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the coordinator had ended before it was killed")
	}
}

func TestAKilledCoordinatorIsReplaced(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=10")
	file, dir := testJob(t, 300, 2, "workers: {min: 2, max: 2, orphan_seconds: 60}\ncheckpoint: {every_steps: 20}")
	yaml, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(yaml), "workers: {min: 2, max: 2, orphan_seconds: 1}\n", "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	first := launchProcess(t, "-job", file)
	awaitStep(t, dir, 5)
	_, done := launchHere(t, Options{JobFile: file})
	wants(t, done, ExitBadInput, "a coordinator is running it already")
	kill(t, first)
	second := launchProcess(t, "-job", file)
	awaitStep(t, dir, 60)
	kill(t, second)

	_, done = launchHere(t, Options{JobFile: file, Set: []string{"train.steps=299"}})
	wants(t, done, ExitBadInput, "still running with another job", "train.steps")
	w, done := launchHere(t, Options{JobFile: file})
	wants(t, done, ExitDone)
	checkMetrics(t, dir, 300)
	checkGone(t, w)
	for _, p := range w.status.GetWorkers() {
		if p.GetIncarnation() != 1 {
			t.Errorf("worker %s has incarnation %d, want the one it began with", p.GetId(), p.GetIncarnation())
		}
	}
	if w.event("generation") != nil || w.status.GetGeneration() != 1 {
		t.Error("a new generation was made for the same workers")
	}
}

func TestOrphansLeaveWhatTheNextCoordinatorNeeds(t *testing.T) {
	leakCheck(t)
	t.Setenv(fakeEnv, "pace=20")
	file, dir := testJob(t, 2000, 2, "")
	first := launchProcess(t, "-job", file)
	awaitStep(t, dir, 3)
	kill(t, first)
	for _, id := range []string{"0", "1"} {
		awaitLine(t, filepath.Join(dir, "logs", "worker-"+id+unreportedSuffix), func(string) bool { return true })
	}
	awaitEnd(t, dir)
	_, done := launchHere(t, Options{JobFile: file})
	wants(t, done, ExitBadInput, "whose processes have all ended", "--resume "+dir)

	t.Setenv(fakeEnv, "pace=1")
	interrupts := make(chan os.Signal, 1)
	w, done := launchHere(t, Options{JobFile: file, Resume: dir, Interrupts: interrupts})
	w.await(t, "a step after the orphans' checkpoint", func(w *watcher) bool { return len(w.steps) > 0 && w.event("generation") != nil && len(w.steps) > 60 })
	interrupts <- os.Interrupt
	wants(t, done, ExitInterrupted)
	checkMetrics(t, dir, w.steps[len(w.steps)-1])
	if g := w.event("generation"); g.Fields["generation"] != "2" || !strings.Contains(g.What, "starting from the checkpoint of step") {
		t.Errorf("generation of the resumed run: %+v", g)
	}
}

// awaitEnd waits until no process of a run without a coordinator lives.
func awaitEnd(t *testing.T, dir string) {
	t.Helper()
	folder, err := openRunFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.close()
	r, err := open(context.Background(), folder)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, p := range r.view.Processes {
		ctx, cancel := context.WithTimeout(context.Background(), patienceOfTests)
		defer cancel()
		if err := awaitExit(ctx, p.PID, p.Start); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadInputLeavesNothing(t *testing.T) {
	leakCheck(t)
	l, err := listen("")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, dir := testJob(t, 10, 2, "")
	for _, c := range []struct {
		name  string
		o     Options
		words []string
	}{
		{"no job file", Options{JobFile: file + ".missing"}, []string{"job.yaml.missing"}},
		{"port in use", Options{JobFile: file, Listen: l.Addr().String()}, []string{l.Addr().String(), "the port is in use"}},
		{"no data", Options{JobFile: file, Set: []string{"data.train=[{path: /nowhere/x.txt, format: text}]"}}, []string{"data.train[0].path", "/nowhere/x.txt"}},
		{"no model", Options{JobFile: file, Set: []string{"model.base=/nowhere/model"}}, []string{"model.base", "/nowhere/model"}},
		{"nothing to resume", Options{JobFile: file, Resume: "/nowhere/run"}, []string{"--resume /nowhere/run"}},
		{"no run to resume", Options{JobFile: file, Resume: filepath.Dir(file)}, []string{"--resume", "no committed checkpoint"}},
		{"not a run folder", Options{JobFile: file, Set: []string{"output.dir=" + filepath.Dir(file)}}, []string{"is not empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, done := launchHere(t, c.o)
			wants(t, done, ExitBadInput, c.words...)
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the run folder was made (%v)", err)
			}
		})
	}
}
