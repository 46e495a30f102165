package generate

import "strings"

// stopper holds text back as long as it may be the beginning of a stop string.
type stopper struct {
	stops []string
	held  string
}

// push adds text and returns what is certain to come before any stop string, and
// whether one has come: then nothing follows.
func (s *stopper) push(text string) (out string, stopped bool) {
	s.held += text
	first := -1
	for _, stop := range s.stops {
		if i := strings.Index(s.held, stop); i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	if first >= 0 {
		out, s.held = s.held[:first], ""
		return out, true
	}
	n := len(s.held) - s.overlap()
	out, s.held = s.held[:n], s.held[n:]
	return out, false
}

// overlap is the length of the longest end of held that begins a stop string.
func (s *stopper) overlap() int {
	longest := 0
	for _, stop := range s.stops {
		for n := min(len(stop)-1, len(s.held)); n > longest; n-- {
			if strings.HasSuffix(s.held, stop[:n]) {
				longest = n
			}
		}
	}
	return longest
}

// flush is what was held back for a stop string that did not come.
func (s *stopper) flush() string {
	out := s.held
	s.held = ""
	return out
}
