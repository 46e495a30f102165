package coordinator

import (
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/job"
)

// badInput is what the user must change before anything can start: exit status 2.
type badInput struct{ err error }

func (b badInput) Error() string { return b.err.Error() }
func (b badInput) Unwrap() error { return b.err }

func bad(format string, args ...any) error { return badInput{fmt.Errorf(format, args...)} }

// IsBadInput says whether err is about what the user gave, as against what went wrong with it.
func IsBadInput(err error) bool {
	var b badInput
	return errors.As(err, &b) || job.IsBadInput(err)
}
