package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait, unless a place has another: for a process to end, or a file to say something.
const patience = 60 * time.Second

// jobYAML is the job that most tests run, with --set where they differ.
const jobYAML = `name: job
model: {base: "preset://tiny"}
data: {train: [{path: text.txt, format: text}], sequence_len: 16}
train:
  steps: 12
  global_batch_size: 8
  micro_batch_size: 1
  precision: f32
  optimizer: {learning_rate: 1.0e-3}
  schedule: {warmup_steps: 2}
workers: {min: 1, max: 2, orphan_seconds: 60}
checkpoint: {every_steps: 5}
log: {tensorboard: false}
`

// place is a working directory with a job, its data and its runs.
type place struct {
	t   *testing.T
	dir string
	tmp string // TMPDIR of what runs here

	patience time.Duration
}

func newPlace(t *testing.T) *place {
	t.Helper()
	if err := dependOnTree(); err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, dir: t.TempDir(), tmp: t.TempDir(), patience: patience}
	t.Cleanup(p.end)
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "the quick brown fox jumps over the lazy dog %d\n", i)
	}
	p.write("text.txt", text.String())
	text.Reset()
	text.WriteString(jobYAML)
	if by := os.Getenv("ZEROFLEET_TRANSPORT"); by != "" { // for all jobs that do not say otherwise
		fmt.Fprintf(&text, "collective: {transport: %s}\n", by)
	}
	p.write("job.yaml", text.String())
	return p
}

// end ends every process that was started here, and waits for that.
func (p *place) end() {
	p.t.Helper()
	for _, pid := range p.processes() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			p.t.Errorf("end process %d: %v", pid, err)
		}
	}
	p.awaitNone()
}

func (p *place) path(name ...string) string {
	return filepath.Join(append([]string{p.dir}, name...)...)
}

func (p *place) write(name, content string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) read(name ...string) string {
	p.t.Helper()
	b, err := os.ReadFile(p.path(name...))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// ended is what a command left when it ended.
type ended struct {
	exit      int
	out, errs string
	signal    syscall.Signal
}

func (e ended) String() string {
	return fmt.Sprintf("exit status %d (%v)\n--- standard output\n%s--- standard error\n%s---", e.exit, e.signal, e.out, e.errs)
}

// command is a running coordinator, or a worker that nobody launched.
type command struct {
	p         *place
	cmd       *exec.Cmd
	args      []string
	out, errs bytes.Buffer // not to be read before done is closed
	done      chan struct{}
}

// start runs a coordinator in the place's folder and in a process group of its own, which is what a terminal signals.
func (p *place) start(args ...string) *command {
	p.t.Helper()
	return p.startAs("coordinator", nil, args...)
}

// startAs is start for another program, with more in its environment.
func (p *place) startAs(program string, env []string, args ...string) *command {
	p.t.Helper()
	if !filepath.IsAbs(program) {
		program = filepath.Join(programs, program)
	}
	c := &command{p: p, args: append([]string{program}, args...), done: make(chan struct{}), cmd: exec.Command(program, args...)}
	c.cmd.Dir = p.dir
	c.cmd.Env = append(append(os.Environ(), "TMPDIR="+p.tmp), env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.errs
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		_ = c.cmd.Wait() // its status is read from the process's state
	}()
	p.t.Cleanup(func() {
		select {
		case <-c.done:
		default:
			_ = c.cmd.Process.Kill() // it may end meanwhile
			<-c.done
		}
	})
	return c
}

// run runs a coordinator to its end.
func (p *place) run(args ...string) ended {
	p.t.Helper()
	return p.start(args...).wait()
}

// wait waits for a command's end.
func (c *command) wait() ended {
	c.p.t.Helper()
	select {
	case <-c.done:
	case <-time.After(c.p.patience):
		_ = c.cmd.Process.Kill()
		<-c.done
		c.p.t.Fatalf("%s does not end\n%s%s", strings.Join(c.args, " "), c.out.String(), c.errs.String())
	}
	e := ended{exit: c.cmd.ProcessState.ExitCode(), out: c.out.String(), errs: c.errs.String()}
	if s := c.cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		e.signal = s.Signal()
	}
	return e
}

// interrupt is a terminal's Ctrl-C.
func (c *command) interrupt() {
	c.p.t.Helper()
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGINT); err != nil {
		c.p.t.Fatal(err)
	}
}

// kill is SIGKILL to the coordinator alone.
func (c *command) kill() {
	c.p.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.p.t.Fatal(err)
	}
	if e := c.wait(); e.signal != syscall.SIGKILL {
		c.p.t.Fatalf("the coordinator had ended before it was killed: %v", e)
	}
}

// wants checks how a command ended, and that its output has all of words.
func (e ended) wants(t *testing.T, exit int, words ...string) ended {
	t.Helper()
	if e.exit != exit {
		t.Fatalf("want exit status %d, got %v", exit, e)
	}
	for _, w := range words {
		if !strings.Contains(e.out+e.errs, w) {
			t.Errorf("want %q, got %v", w, e)
		}
	}
	return e
}

// await waits until ok holds, looking every few milliseconds.
func (p *place) await(what string, ok func() bool) {
	p.t.Helper()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), p.patience)
	defer cancel()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("waited %s for %s", p.patience, what)
		}
	}
}

// processes are the ids of the running processes that were started for this place: its path is on their command line.
func (p *place) processes() []int {
	p.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // empty of what has ended
		if err == nil && bytes.Contains(line, []byte(p.dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (p *place) awaitNone() {
	p.t.Helper()
	p.await("its processes to end", func() bool { return len(p.processes()) == 0 })
}

// wantsNothingLeft checks that no process of this place runs and that nothing lies in temporary folders.
func (p *place) wantsNothingLeft() {
	p.t.Helper()
	if pids := p.processes(); len(pids) > 0 {
		p.t.Errorf("processes %v are left running", pids)
	}
	if left := p.tree(p.tmp); len(left) > 0 {
		p.t.Errorf("left in TMPDIR: %v", left)
	}
	shm, err := filepath.Glob("/dev/shm/*zerofleet*")
	if err != nil || len(shm) > 0 {
		p.t.Errorf("left in shared memory: %v (%v)", shm, err)
	}
	for _, name := range p.tree(p.dir) {
		if base := filepath.Base(name); strings.HasPrefix(base, ".") {
			p.t.Errorf("left half-written: %s", name)
		}
	}
}

// tree lists the files below a folder.
func (p *place) tree(dir string) []string {
	p.t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return names
}

// step is a line of metrics.jsonl.
type step struct {
	Step       int
	Time       time.Time
	Loss       *float64
	WorldSize  int `json:"world_size"`
	Generation int
	Worker     string
	SentBytes  map[string]int64 `json:"sent_bytes"`
}

// steps reads a run's metrics.jsonl, of which the last line may be half-written.
func (p *place) steps(run string) []step {
	p.t.Helper()
	var list []step
	for _, line := range lines(p.path(run, "metrics.jsonl")) {
		var s step
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			p.t.Fatalf("metrics.jsonl: %v: %s", err, line)
		}
		list = append(list, s)
	}
	return list
}

// lines are the whole lines of a file; none if it is not there.
func lines(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	all := strings.SplitAfter(string(b), "\n")
	return all[:len(all)-1]
}

func (p *place) awaitStep(run string, n int) {
	p.t.Helper()
	p.await(fmt.Sprintf("step %d of %s", n, run), func() bool { return len(lines(p.path(run, "metrics.jsonl"))) >= n })
}

// wantsSteps checks that metrics.jsonl has a line for each of the steps first to last, each once and in order, of when each was
// committed and what was sent for it.
func (p *place) wantsSteps(run string, first, last int) {
	p.t.Helper()
	var got []int
	var before time.Time
	for _, s := range p.steps(run) {
		got = append(got, s.Step)
		if s.Time.IsZero() || s.Time.Before(before) {
			p.t.Errorf("step %d was committed at %s, the one before at %s", s.Step, s.Time, before)
		}
		before = s.Time
		if (len(s.SentBytes) > 0) != (s.WorldSize > 1) {
			p.t.Errorf("step %d, %d workers: sent %v", s.Step, s.WorldSize, s.SentBytes)
		}
		if s.Loss == nil {
			p.t.Errorf("step %d has no loss", s.Step)
		}
	}
	ok := len(got) == last-first+1
	for i, n := range got {
		ok = ok && n == first+i
	}
	if !ok {
		p.t.Errorf("%s/metrics.jsonl has steps %v, want %d to %d", run, got, first, last)
	}
}

// event is a line of events.jsonl.
type event struct {
	Type, What, Why string
	Fields          map[string]string
}

func (p *place) events(run, kind string) []event {
	p.t.Helper()
	var list []event
	for _, line := range lines(p.path(run, "events.jsonl")) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			p.t.Fatalf("events.jsonl: %v: %s", err, line)
		}
		if e.Type == kind {
			list = append(list, e)
		}
	}
	return list
}

func (p *place) awaitCheckpoint(run string, n int) {
	p.t.Helper()
	p.await(fmt.Sprintf("checkpoint %d of %s", n, run), func() bool { return len(p.events(run, "checkpoint")) >= n })
}

// status is what `status -o json` says.
type status struct {
	State          string
	Message        string
	Step           int
	CheckpointStep int `json:"checkpoint_step"`
	// CheckpointFailing says why a newer one is not there.
	CheckpointFailing string `json:"checkpoint_failing"`
	Losses            struct {
		CheckpointFailures int `json:"checkpoint_failures"`
		DamagedReplicas    int `json:"damaged_replicas"`
	}
	Workers []workerStatus
}

type workerStatus struct {
	ID         string
	Rank       int
	Generation int
	PID        int
	State      string
	Step       int
}

func (p *place) status(run string) status {
	p.t.Helper()
	e := p.run("status", run, "-o", "json").wants(p.t, 0)
	var s status
	if err := json.Unmarshal([]byte(e.out), &s); err != nil {
		p.t.Fatalf("status: %v\n%s", err, e.out)
	}
	return s
}

var hashLine = regexp.MustCompile(`^([0-9a-f]{64})  step (\d+)\n$`)

// hash is what `coordinator hash` says of a run or checkpoint.
func (p *place) hash(what string) (sum string, step int) {
	p.t.Helper()
	e := p.run("hash", what).wants(p.t, 0)
	m := hashLine.FindStringSubmatch(e.out)
	if m == nil {
		p.t.Fatalf("hash %s says %q", what, e.out)
	}
	step, err := strconv.Atoi(m[2])
	if err != nil {
		p.t.Fatal(err)
	}
	return m[1], step
}

// wantsHash checks that a run has ended as the undisturbed one of as many steps does.
func (p *place) wantsHash(run string, steps int) {
	p.t.Helper()
	got, step := p.hash(run)
	if want := undisturbed(p.t, steps); got != want || step != steps {
		p.t.Errorf("%s: hash %.12s of step %d, want %.12s of step %d", run, got, step, want, steps)
	}
}

var (
	hashesMu sync.Mutex
	hashes   = map[int]string{}
)

// undisturbed is the hash of the job run by one worker with nothing in its way: for 12 steps, or a long run's.
func undisturbed(t *testing.T, steps int) string {
	t.Helper()
	hashesMu.Lock()
	defer hashesMu.Unlock()
	if hashes[steps] == "" {
		p := newPlace(t)
		args := []string{"launch", "job.yaml", "--workers", "1", "--set", "sharding.stage=0"}
		if steps == long {
			args = append(args, longSet...)
		}
		p.run(args...).wants(t, 0)
		hashes[steps], _ = p.hash("runs/job")
	}
	return hashes[steps]
}

// parts are the paths of a run's checkpoint parts of one step.
func (p *place) parts(run string, step int) []string {
	p.t.Helper()
	list, err := filepath.Glob(p.path(run, "checkpoints", fmt.Sprintf("step-%010d", step), "*.safetensors"))
	if err != nil || len(list) == 0 {
		p.t.Fatalf("%s has no parts of step %d (%v)", run, step, err)
	}
	return list
}

// checkpointSteps are the steps that a run has checkpoints of.
func (p *place) checkpointSteps(run string) []int {
	p.t.Helper()
	e := p.run("checkpoints", "list", run, "-o", "json").wants(p.t, 0)
	var list []struct{ Step int }
	if err := json.Unmarshal([]byte(e.out), &list); err != nil {
		p.t.Fatalf("checkpoints list: %v\n%s", err, e.out)
	}
	var steps []int
	for _, c := range list {
		steps = append(steps, c.Step)
	}
	return steps
}

// headBytes is where a checkpoint part's first tensor, a unit's masters, begins: its manifest says so.
func (p *place) headBytes(part string) int {
	p.t.Helper()
	manifests, err := filepath.Glob(filepath.Join(filepath.Dir(part), "*-manifest-*.json"))
	if err != nil || len(manifests) != 1 {
		p.t.Fatalf("manifests %v: %v", manifests, err)
	}
	text, err := os.ReadFile(manifests[0])
	if err != nil {
		p.t.Fatal(err)
	}
	var m struct {
		Parts []struct {
			Key       string
			HeadBytes int `json:"head_bytes"`
		}
	}
	if err := json.Unmarshal(text, &m); err != nil {
		p.t.Fatal(err)
	}
	for _, x := range m.Parts {
		if filepath.Base(x.Key) == filepath.Base(part) {
			return x.HeadBytes
		}
	}
	p.t.Fatalf("%s names no part %s", manifests[0], part)
	return 0
}

// flip changes one bit of a file: of byte at, from the end when that is negative.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// resumeWords are the words of the last line that begins with "coordinator launch": what a user pastes.
func (e ended) resumeWords(t *testing.T) []string {
	t.Helper()
	all := strings.Split(e.out+e.errs, "\n")
	for _, line := range slices.Backward(all) {
		if rest, ok := strings.CutPrefix(line, "coordinator launch"); ok {
			return append([]string{"launch"}, strings.Fields(rest)...)
		}
	}
	t.Fatalf("no line that resumes: %v", e)
	return nil
}
