// Package cudaemu compiles kernels/cuda's .cu files with g++ to a library that runs on the CPU, for tests. emu/ has the headers that
// stand in for CUDA's, and the emulator; emu/emulator.cpp says what it checks.
package cudaemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// flags compile one file. -march=native has the fma instruction, where there is one; nothing contracts.
var flags = []string{"-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden",
	"-ftls-model=initial-exec", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DZF_CUDAEMU"}

// folder is this package's.
func folder() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", errors.New("cudaemu: this program was built without the paths of its sources")
	}
	return filepath.Dir(file), nil
}

// Build returns the path of the library, which it compiles unless the user's cache has one from the same sources, compiler and
// flags, for this machine.
func Build(ctx context.Context) (string, error) {
	own, err := folder()
	if err != nil {
		return "", err
	}
	sources, headers, err := files(own)
	if err != nil {
		return "", fmt.Errorf("cudaemu: %w", err)
	}
	key, err := key(ctx, append(slices.Clone(sources), headers...))
	if err != nil {
		return "", fmt.Errorf("cudaemu: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cudaemu: %w", err)
	}
	path := filepath.Join(cache, "zerofleet", "cudaemu-"+key+".so")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("cudaemu: %w", err)
	}
	if err := compile(ctx, own, sources, path); err != nil {
		return "", fmt.Errorf("cudaemu: %w", err)
	}
	return path, nil
}

// files are what is compiled and what that includes. The file for cuBLASLt is nvcc's alone.
func files(own string) (sources, headers []string, err error) {
	for _, pattern := range []string{"../cuda/*.cu", "emu/*.cpp", "../cuda/*.h", "../cuda/*.cuh", "emu/*.h", "../*.h"} {
		found, err := filepath.Glob(filepath.Join(own, pattern))
		if err != nil {
			return nil, nil, err
		}
		for _, f := range found {
			switch ext := filepath.Ext(f); {
			case filepath.Base(f) == "products_cublas.cu":
			case ext == ".cu" || ext == ".cpp":
				sources = append(sources, f)
			default:
				headers = append(headers, f)
			}
		}
	}
	return sources, headers, nil
}

// key names a library by what it is made from.
func key(ctx context.Context, files []string) (string, error) {
	h := sha256.New()
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s\n", filepath.Base(f), len(b), b)
	}
	// What the compiler takes -march=native for, and its version.
	out, err := exec.CommandContext(ctx, "g++", "-march=native", "-Q", "--help=target", "-v").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run g++: %w: %s", err, out)
	}
	fmt.Fprintf(h, "%s\n%s", strings.Join(flags, " "), out)
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// compile makes the library beside its place, so that it is there as a whole or not at all.
func compile(ctx context.Context, own string, sources []string, path string) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	g, each := errgroup.WithContext(ctx) // each ends with Wait
	g.SetLimit(runtime.NumCPU())
	objects := make([]string, len(sources))
	for i, source := range sources {
		objects[i] = filepath.Join(tmp, filepath.Base(source)+".o")
		g.Go(func() error {
			args := append(slices.Clone(flags), "-I"+filepath.Join(own, "emu"), "-I"+filepath.Join(own, "..", "cuda"), "-x", "c++", "-c", source, "-o", objects[i])
			return gxx(each, args)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	library := filepath.Join(tmp, "lib.so")
	if err := gxx(ctx, append([]string{"-shared", "-o", library, "-lpthread"}, objects...)); err != nil {
		return err
	}
	return os.Rename(library, path)
}

func gxx(ctx context.Context, args []string) error {
	if out, err := exec.CommandContext(ctx, "g++", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("g++ %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
