package cudaemu

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMistakes has the emulator find each of the mistakes that it promises to, and nothing in a kernel without one.
func TestMistakes(t *testing.T) {
	own, err := folder()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "mistakes")
	args := append(slices.Clone(flags), "-I"+filepath.Join(own, "emu"), "-I"+filepath.Join(own, "..", "cuda"), "-o", program,
		filepath.Join(own, "testdata", "mistakes.cpp"), filepath.Join(own, "emu", "emulator.cpp"), "-lpthread")
	if err := gxx(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct{ name, want string }{
		{"none", "nothing"},
		{"ended", "a barrier or a shuffle that not all threads reach"},
		{"apart", "at a barrier while another thread of the block is at another one"},
		{"lanes", "a barrier or a shuffle that not all threads reach"},
		{"half mask", "a shuffle whose mask is not the whole warp"},
		{"unaligned", "an access of several elements that is not aligned to them all"},
		{"beyond", "shared memory was written after its end"},
		{"race", "the order of threads shows"},
		{"ahead", "the order of threads shows"},
	} {
		out, err := exec.CommandContext(t.Context(), program, m.name).Output()
		if got := string(out); err != nil || !strings.HasSuffix(got, m.want+"\n") || strings.Contains(got, "ran before") {
			t.Errorf("%s: %v: got %q, want %q", m.name, err, got, m.want)
		}
	}
}
