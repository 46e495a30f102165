package train

import (
	"context"
	"time"

	"github.com/zerofleet/zerofleet/collective"
)

// Timeline is where the time between two commits went at this rank. Its parts add up to StepReport.Elapsed.
type Timeline struct {
	Data       time.Duration // reading and packing the step's tokens
	Exposed    time.Duration // waiting for collectives: what computing did not hide
	Update     time.Duration // the optimizer, and publishing the parameters, without its waits
	Checkpoint time.Duration // waiting for checkpoints
	Compute    time.Duration // the rest: forward, backward, rounding and folding
	// Late is, by rank, how much of Exposed went by until that rank, the last to do so, had arrived at what was waited for.
	Late []time.Duration
}

// Span is something that a sampled step did. Those of one lane do not overlap, unless one is within the other.
type Span struct {
	Name       string
	Collective bool // in flight beside computing: those may overlap each other
	Start, End time.Time
}

// clock measures the time since the last commit. One goroutine uses it.
type clock struct {
	data, exposed, update time.Duration
	late                  []time.Duration
	sampling              bool
	spans                 []Span
}

// start begins a step's measurement.
func (c *clock) start(world int, sampling bool) {
	*c = clock{late: make([]time.Duration, world), sampling: sampling}
}

// sampled says which steps are traced: few enough to cost nothing, early ones too.
func sampled(step int64) bool { return step > 1 && step&(step-1) == 0 || step%traceEvery == 0 }

const traceEvery = 50

// timeline is what was measured over so long a time.
func (c *clock) timeline(elapsed, checkpoint time.Duration) Timeline {
	return Timeline{Data: c.data, Exposed: c.exposed, Update: c.update, Checkpoint: checkpoint,
		Compute: max(0, elapsed-c.data-c.exposed-c.update-checkpoint), Late: c.late}
}

// reading notes that the step's data was waited for since then.
func (c *clock) reading(since time.Time) {
	now := time.Now()
	c.data += now.Sub(since)
	c.span("data", since, now)
}

// mark is where a part of the update begins.
type mark struct {
	at      time.Time
	exposed time.Duration
}

func (c *clock) mark() mark { return mark{time.Now(), c.exposed} }

// updated notes a part of the update, but what it waited meanwhile.
func (c *clock) updated(name string, since mark, now time.Time) {
	c.update += now.Sub(since.at) - (c.exposed - since.exposed)
	c.span(name, since.at, now)
}

// waited notes that this rank waited for an operation, and until when for the last rank to arrive.
func (c *clock) waited(r collective.Record, began, now time.Time) {
	c.exposed += now.Sub(began)
	if r.Arrived.After(began) && r.Last < len(c.late) {
		c.late[r.Last] += min(r.Arrived.Sub(began), now.Sub(began))
	}
	if !c.sampling || r.Ended.IsZero() {
		return
	}
	name := r.Kind.String()
	if r.Name != "" {
		name += " " + r.Name
	}
	c.span("wait for "+name, began, now)
	c.spans = append(c.spans, Span{Name: name, Collective: true, Start: r.Posted, End: r.Ended})
}

func (c *clock) span(name string, start, end time.Time) {
	if c.sampling {
		c.spans = append(c.spans, Span{Name: name, Start: start, End: end})
	}
}

// wait waits for an operation of a step. All of its time is exposed: nothing is computed meanwhile.
func (t *Trainer) wait(ctx context.Context, p *collective.Pending) error {
	began := time.Now()
	err := p.Wait(ctx)
	if err == nil {
		t.clock.waited(p.Record(), began, time.Now())
	}
	return err
}

// exchange is the Group's Exchange, measured like wait.
func (t *Trainer) exchange(ctx context.Context, record []byte) ([][]byte, error) {
	began := time.Now()
	all, err := t.group.Exchange(ctx, record)
	if err != nil {
		return nil, err
	}
	last, _ := t.group.Last() // a rank that exchanges posts nothing else meanwhile
	t.clock.waited(last, began, time.Now())
	return all, nil
}
