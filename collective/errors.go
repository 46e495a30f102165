package collective

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrFenced means that a newer generation began: close the Group, join the newer one.
	ErrFenced = errors.New("fenced by a newer generation")
	// ErrClosed means that this rank closed its Group.
	ErrClosed = errors.New("group closed")
	// ErrPeer is what every *PeerError is: report the peer, expect a new generation.
	ErrPeer = errors.New("peer lost")
	// ErrStalled is what every *StallError is: report the ranks it names.
	ErrStalled = errors.New("operation stalled")
	// ErrInvalid means that this rank's own call was wrong (shape, type, rank): a bug.
	ErrInvalid = errors.New("invalid operation")
)

// Mismatch is the error of ranks that disagree on the operation at one sequence number.
// It is a bug in the caller, or workers that run different programs or jobs.
type Mismatch struct {
	RankA int
	OpA   Op
	RankB int
	OpB   Op
}

func (m *Mismatch) Error() string {
	return fmt.Sprintf("ranks disagree on operation %d: rank %d is at %s, rank %d is at %s", m.OpA.Seq, m.RankA, m.OpA, m.RankB, m.OpB)
}

// PeerError is the error of a peer that was lost, that failed, or that broke the protocol.
type PeerError struct {
	Rank int
	ID   string // worker id; "" where the transport knows none
	// Last tells the peer's last known operation, as in "all-gather #40 embed, finished 3s
	// ago"; "" when it never told one.
	Last string
	Err  error
}

func (e *PeerError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rank %d", e.Rank)
	if e.ID != "" {
		fmt.Fprintf(&b, " (%s)", e.ID)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Last != "" {
		fmt.Fprintf(&b, "; its last operation was %s", e.Last)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *PeerError) Unwrap() error { return e.Err }

// Is makes every PeerError an ErrPeer.
func (e *PeerError) Is(target error) bool { return target == ErrPeer }

// StallError is the error of an operation that made no progress for the deadline.
type StallError struct {
	Op      Op
	Waited  time.Duration // since the operation's last progress
	Waiting []Waiting     // whom it waits for, at least one
}

// Waiting is one rank that a stalled operation waits for.
type Waiting struct {
	Rank int
	ID   string
	// Arrived tells whether the rank has posted the operation.
	Arrived bool
	// Reading is false when the rank does not take what this rank has for it.
	Reading bool
	Last    string        // its last known operation, as in PeerError
	LastOp  string        // the same without when
	Silent  time.Duration // since anything was heard from it; 0 when that is recent
}

// What says what the rank does not do: "has not arrived at", before the operation.
func (w Waiting) What() string {
	switch {
	case !w.Arrived:
		return "has not arrived at"
	case !w.Reading:
		return "does not read its part of"
	}
	return "does not finish its part of"
}

func (e *StallError) Error() string {
	var b strings.Builder
	for i, w := range e.Waiting {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "rank %d", w.Rank)
		if w.ID != "" {
			fmt.Fprintf(&b, " (%s)", w.ID)
		}
		fmt.Fprintf(&b, " %s %s", w.What(), e.Op)
		if w.Last != "" {
			fmt.Fprintf(&b, ": its last operation was %s", w.Last)
		} else {
			b.WriteString(": it has begun no operation")
		}
		if w.Silent > 0 {
			fmt.Fprintf(&b, ", nothing heard from it for %s", Age(w.Silent))
		}
	}
	fmt.Fprintf(&b, " (no progress for %s)", Age(e.Waited))
	return b.String()
}

// Is makes every StallError an ErrStalled.
func (e *StallError) Is(target error) bool { return target == ErrStalled }

// Age prints a duration as errors do: whole seconds from ten on, milliseconds below.
func Age(d time.Duration) string {
	if d >= 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(time.Millisecond).String()
}
