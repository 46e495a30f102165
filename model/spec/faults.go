package spec

import "strings"

// faults is every fault of one configuration, told in one line.
type faults []error

// orNil is nil, which an empty list in an error is not.
func (f faults) orNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

func (f faults) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f faults) Unwrap() []error { return f }
