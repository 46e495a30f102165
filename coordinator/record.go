package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// gapPatience is how long a step's line is held back for an earlier one that has not arrived: whoever knew it may be
// dead. After that it is written all the same, and an event says which are missing.
const gapPatience = 20 * time.Second

// record is a run's metrics.jsonl and events.jsonl. Workers tell everything at least once, and every rank tells of every
// step; here each step is written once and in order, and each event once. What is there already is found in the files
// themselves, so a coordinator that was killed leaves nothing behind that the next one does not know.
//
// A line is acknowledged when it is written, not when the disk has it: it outlives the coordinator, not the machine.
type record struct {
	feed *feed
	log  *slog.Logger
	now  func() time.Time

	mu         sync.Mutex
	absorbing  bool // no worker will tell of a missing step any more
	metrics    *lines
	events     *lines
	lastStep   uint64               // newest in metrics.jsonl, or the checkpoint's that the run started from
	lastEval   uint64               // 1 + step of the newest evaluation in events.jsonl
	kept       map[life]uint64      // sequence of each worker's newest kept event
	gapSince   time.Time            // zero: no line is held back
	newest     *membership.StepLine // told by a worker of this run
	evaluation *membership.EvaluationLine
	losses     losses
	account    account
	loaded     *stepJSON // the last line that was in metrics.jsonl already
}

// life is one incarnation of a worker.
type life struct {
	id          string
	incarnation uint64
}

// stepJSON is a line of metrics.jsonl.
type stepJSON struct {
	Step            uint64            `json:"step"`
	Time            time.Time         `json:"time,omitzero"` // it was committed
	Loss            number            `json:"loss"`
	LearningRate    number            `json:"lr"`
	GradNorm        number            `json:"grad_norm"`
	Tokens          uint64            `json:"tokens"`
	LossTokens      uint64            `json:"loss_tokens"`
	TokensPerSecond number            `json:"tokens_per_second"`
	WorldSize       uint32            `json:"world_size"`
	Generation      uint64            `json:"generation"`
	OptimizerStep   uint64            `json:"optimizer_step"`
	Epoch           number            `json:"epoch"`
	TotalSteps      uint64            `json:"total_steps"`
	Skipped         bool              `json:"skipped,omitempty"`
	TierBytes       map[string]int64  `json:"tier_bytes,omitempty"`
	SentBytes       map[string]uint64 `json:"sent_bytes,omitempty"` // by the worker whose line it is, by operation
	// Where the time since the step before went at that worker, and how much of its exposed communication went by until each
	// other worker, the last one, had arrived.
	Seconds   map[string]float64 `json:"seconds,omitempty"`
	WaitedFor map[string]float64 `json:"waited_for_seconds,omitempty"`
	Worker    string             `json:"worker,omitempty"`
}

// eventJSON is a line of events.jsonl.
type eventJSON struct {
	Time        time.Time         `json:"time"`
	Type        string            `json:"type"`
	What        string            `json:"what"`
	Why         string            `json:"why,omitempty"`
	Worker      string            `json:"worker,omitempty"`
	Incarnation uint64            `json:"incarnation,omitempty"`
	Sequence    uint64            `json:"sequence,omitempty"`
	Evaluation  *evaluationJSON   `json:"evaluation,omitempty"`
	Fields      map[string]string `json:"fields,omitempty"`
}

type evaluationJSON struct {
	Step       uint64 `json:"step"`
	Loss       number `json:"loss"`
	Perplexity number `json:"perplexity"`
	LossTokens uint64 `json:"loss_tokens"`
}

// openRecord opens a run folder's files, reads what they hold, and takes in what workers left in logs/. start is the
// step that the run starts from: the next line is of the one after it, unless the file has later ones. after is the last
// generation before the run.
func openRecord(f *runFolder, start, after uint64, feed *feed, log *slog.Logger) (*record, error) {
	r := &record{feed: feed, log: log, now: time.Now, kept: map[life]uint64{}, account: account{after: after}}
	var err error
	r.metrics, err = openLines(f.path("metrics.jsonl"), func(line []byte) error {
		var s stepJSON
		if err := json.Unmarshal(line, &s); err != nil {
			return err
		}
		r.lastStep, r.loaded = max(r.lastStep, s.Step), &s
		r.account.step(s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.events, err = openLines(f.path("events.jsonl"), func(line []byte) error {
		var e eventJSON
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if e.Worker != "" {
			r.kept[life{e.Worker, e.Incarnation}] = e.Sequence
		}
		r.losses.see(e)
		if e.Evaluation != nil {
			r.lastEval = max(r.lastEval, e.Evaluation.Step+1)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, r.metrics.close())
	}
	if err := r.absorb(f); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if r.lastStep > 0 && r.lastStep < start {
		err = r.missing(r.lastStep+1, start)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.lastStep = max(r.lastStep, start)
	return r, nil
}

// missing says that steps have no line and will get none.
func (r *record) missing(first, last uint64) error {
	return r.write(eventJSON{Time: r.now(), Type: "metrics_missing",
		What: fmt.Sprintf("steps %d to %d have no line in metrics.jsonl", first, last), Why: "no worker has told of them"})
}

func (r *record) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.metrics.close(), r.events.close())
}

// take keeps a worker's reports and returns up to which sequence they are kept. Entries after a held-back step are
// looked at too, so that a worker's state and events do not wait for another worker's step.
func (r *record) take(from life, entries []*zerofleetv1.ReportEntry) (acknowledged uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := false
	for _, e := range entries {
		taken := true
		switch what := e.GetWhat().(type) {
		case *zerofleetv1.ReportEntry_Step:
			taken, err = r.step(what.Step)
		case *zerofleetv1.ReportEntry_Evaluation:
			err = r.evaluate(from, e, what.Evaluation)
		case *zerofleetv1.ReportEntry_Event:
			err = r.workerEvent(from, e, what.Event)
		}
		if err != nil {
			return acknowledged, err
		}
		held = held || !taken
		if !held {
			acknowledged = e.GetSequence()
		}
	}
	return acknowledged, nil
}

// step writes a step's line if it is the next, and says whether its reporter may forget it.
func (r *record) step(l *membership.StepLine) (taken bool, err error) {
	switch {
	case l.GetStep() <= r.lastStep:
		r.see(l)
		return true, nil
	case l.GetStep() > r.lastStep+1:
		if r.gapSince.IsZero() {
			r.gapSince = r.now()
		}
		if r.now().Sub(r.gapSince) < gapPatience && !r.absorbing {
			return false, nil
		}
		if err := r.missing(r.lastStep+1, l.GetStep()-1); err != nil {
			return false, err
		}
	}
	line := stepLine(l)
	b, err := json.Marshal(line)
	if err != nil {
		return false, fmt.Errorf("encode step %d: %w", l.GetStep(), err)
	}
	if err := r.metrics.add(b); err != nil {
		return false, fmt.Errorf("write step %d: %w", l.GetStep(), err)
	}
	r.lastStep, r.gapSince = l.GetStep(), time.Time{}
	r.account.step(line)
	r.see(l)
	r.feed.tell(func(v View) { v.Step(l) })
	return true, nil
}

// see remembers the newest step that a worker has told of. After a resume that is for a while one whose line was
// written before.
func (r *record) see(l *membership.StepLine) {
	if r.newest == nil || l.GetStep() > r.newest.GetStep() {
		r.newest = l
	}
}

func stepLine(l *membership.StepLine) stepJSON {
	var committed time.Time
	if n := l.GetUnixNanos(); n != 0 {
		committed = time.Unix(0, n)
	}
	return stepJSON{
		Time: committed, SentBytes: l.GetSentBytes(), Seconds: l.GetSeconds(), WaitedFor: l.GetWaitedFor(), Worker: l.GetWorker(),
		Step: l.GetStep(), Loss: number(l.GetLoss()), LearningRate: number(l.GetLearningRate()), GradNorm: number(l.GetGradNorm()),
		Tokens: l.GetTokens(), LossTokens: l.GetLossTokens(), TokensPerSecond: number(l.GetTokensPerSecond()),
		WorldSize: l.GetWorldSize(), Generation: l.GetGeneration(), OptimizerStep: l.GetOptimizerStep(),
		Epoch: number(l.GetEpoch()), TotalSteps: l.GetTotalSteps(), Skipped: l.GetSkipped(), TierBytes: l.GetTierBytes(),
	}
}

func (r *record) evaluate(from life, e *zerofleetv1.ReportEntry, l *membership.EvaluationLine) error {
	if l.GetStep() < r.lastEval {
		return nil
	}
	r.lastEval, r.evaluation = l.GetStep()+1, l
	r.feed.tell(func(v View) { v.Evaluation(l) })
	line := evaluationLine(l)
	return r.write(eventJSON{
		Time: time.Unix(0, e.GetUnixNanos()), Type: "evaluation",
		What:   fmt.Sprintf("evaluated after step %d: loss %.4f, perplexity %.2f", l.GetStep(), l.GetLoss(), l.GetPerplexity()),
		Worker: from.id, Incarnation: from.incarnation, Sequence: e.GetSequence(),
		Evaluation: &line,
	})
}

func evaluationLine(l *membership.EvaluationLine) evaluationJSON {
	return evaluationJSON{Step: l.GetStep(), Loss: number(l.GetLoss()), Perplexity: number(l.GetPerplexity()), LossTokens: l.GetLossTokens()}
}

func (r *record) workerEvent(from life, e *zerofleetv1.ReportEntry, told *zerofleetv1.Event) error {
	if e.GetSequence() <= r.kept[from] {
		return nil
	}
	return r.write(eventJSON{
		Time: time.Unix(0, e.GetUnixNanos()), Type: told.GetType(), What: told.GetWhat(), Why: told.GetWhy(),
		Worker: from.id, Incarnation: from.incarnation, Sequence: e.GetSequence(), Fields: told.GetFields(),
	})
}

// event writes an event of the coordinator's own. An event that cannot be written stops nothing: it is logged.
func (r *record) event(kind, what, why string, fields map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.write(eventJSON{Time: r.now(), Type: kind, What: what, Why: why, Fields: fields}); err != nil {
		r.log.Error("event lost", "type", kind, "what", what, "error", err)
	}
}

func (r *record) write(e eventJSON) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", e.Type, err)
	}
	if err := r.events.add(b); err != nil {
		return fmt.Errorf("write event %s: %w", e.Type, err)
	}
	r.losses.see(e)
	if e.Worker != "" {
		r.kept[life{e.Worker, e.Incarnation}] = e.Sequence
	}
	if e.Evaluation == nil { // a view is told of those apart
		r.feed.tell(func(v View) {
			v.Event(Event{Time: e.Time, Type: e.Type, What: e.What, Why: e.Why, Worker: e.Worker, Fields: e.Fields})
		})
	}
	return nil
}

// lost sums up what happened to a run's workers, and where its time went. failing says why its newest checkpoint is not
// there yet; "" when it is.
func (r *record) lost(run store.Run) (l *zerofleetv1.Losses, failing string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l = r.losses.proto()
	r.account.fill(l, run)
	return l, r.losses.failing
}

// told are the newest generation that events tell of, and the newest that they call over and settled.
func (r *record) told() (generation, over, settled uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.losses.generation, r.losses.over, r.losses.settled
}

// hasJoined says whether an event tells of a worker's life.
func (r *record) hasJoined(w life) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.losses.joined[w]
}

// testimony is what the events tell of that etcd should know too.
func (r *record) testimony() testimony {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := testimony{generation: r.losses.generation, checkpoint: r.losses.checkpointed, checkpointIn: r.losses.checkpointedIn, lives: map[string]uint64{}}
	for l := range r.losses.joined {
		t.lives[l.id] = max(t.lives[l.id], l.incarnation)
	}
	return t
}

// lostSince is when the loss was seen that is being recovered from; zero: none is.
func (r *record) lostSince() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.losses.since
}

// newestStep is the newest step that has a line.
func (r *record) newestStep() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastStep
}

// progress is the newest step and evaluation that are known, nil where there are none.
func (r *record) progress() (*membership.StepLine, *membership.EvaluationLine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest == nil && r.loaded != nil {
		s := r.loaded
		var committed int64
		if !s.Time.IsZero() {
			committed = s.Time.UnixNano()
		}
		return &membership.StepLine{
			UnixNanos: committed, SentBytes: s.SentBytes, Seconds: s.Seconds, WaitedFor: s.WaitedFor, Worker: s.Worker,
			Step: s.Step, Loss: float64(s.Loss), LearningRate: float64(s.LearningRate), GradNorm: float64(s.GradNorm), Tokens: s.Tokens,
			LossTokens: s.LossTokens, TokensPerSecond: float64(s.TokensPerSecond), WorldSize: s.WorldSize, Generation: s.Generation,
			OptimizerStep: s.OptimizerStep, Epoch: float64(s.Epoch), TotalSteps: s.TotalSteps, TierBytes: s.TierBytes,
		}, r.evaluation
	}
	return r.newest, r.evaluation
}
