package weights

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zerofleet/zerofleet/model/spec"
)

// maxNamed is how many tensors one fault names; a file of another model has hundreds.
const maxNamed = 4

// stored is a tensor as a file has it.
type stored struct {
	shape    []int
	dtype    string
	readable bool
}

// check holds a file's tensors, by canonical or unknown name, against the configuration.
// It reports all faults: what is missing, what is unexpected, what has the wrong shape or
// dtype. An unexpected tensor is a fault because a model that has, say, biases computes
// something else without them.
func check(c spec.Config, file map[string]stored, dtypes string) error {
	var missing, wrong, extra []string
	known := map[string]bool{}
	for _, u := range c.Units() {
		for _, t := range u.Tensors {
			known[t.Name] = true
			got, ok := file[t.Name]
			switch {
			case !ok:
				missing = append(missing, t.Name)
			case !slices.Equal(got.shape, t.Shape):
				wrong = append(wrong, fmt.Sprintf("%s: shape %v, want %v", t.Name, got.shape, t.Shape))
			case !got.readable:
				wrong = append(wrong, fmt.Sprintf("%s: dtype %s, want one of %s", t.Name, got.dtype, dtypes))
			}
		}
	}
	for name := range file {
		if !known[name] && !harmless(c, name) {
			extra = append(extra, name)
		}
	}
	slices.Sort(extra)
	var faults []error
	for _, f := range []struct {
		what  string
		names []string
	}{{"missing tensors", missing}, {"wrong tensors", wrong}, {"unexpected tensors", extra}} {
		if len(f.names) > 0 {
			faults = append(faults, fmt.Errorf("%d %s: %s", len(f.names), f.what, some(f.names)))
		}
	}
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return faults[0]
	}
	var all []string
	for _, f := range faults {
		all = append(all, f.Error())
	}
	return errors.New(strings.Join(all, "; "))
}

// harmless tells whether an unexpected tensor changes nothing: a tied model's copy of its
// embedding, or a table that the configuration determines.
func harmless(c spec.Config, name string) bool {
	return name == spec.LMHeadName && c.Tied || strings.HasSuffix(name, ".rotary_emb.inv_freq") || name == "rope_freqs.weight"
}

func some(names []string) string {
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
}
