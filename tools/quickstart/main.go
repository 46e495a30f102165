// Quickstart makes a chat data set that every machine with Go has the source of:
// questions and answers from the documentation of Go's standard library.
//
//	go run ./tools/quickstart FOLDER
//
// It writes FOLDER/train.jsonl and FOLDER/eval.jsonl, one record a line:
//
//	{"messages": [{"role": "user", "content": "What does strings.Cut do?"}, {"role": "assistant", "content": "Cut slices s ..."}]}
//
// The same Go release gives the same files.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	if len(os.Args) != 2 || os.Args[1] == "-h" || os.Args[1] == "--help" {
		fmt.Fprintln(os.Stderr, "usage: quickstart FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	root, err := goroot()
	if err != nil {
		return err
	}
	records, err := collect(filepath.Join(root, "src"))
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return fmt.Errorf("%s: no documented package: is that a whole Go installation?", filepath.Join(root, "src"))
	}
	train, eval := split(records)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, part := range map[string][]record{"train.jsonl": train, "eval.jsonl": eval} {
		if err := write(filepath.Join(folder, name), part); err != nil {
			return err
		}
	}
	fmt.Printf("%d questions and answers from %s's documentation: %d to train on, %d held out, in %s\n",
		len(records), runtime.Version(), len(train), len(eval), folder)
	return nil
}
