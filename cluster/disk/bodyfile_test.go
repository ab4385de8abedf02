package disk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/disk/disktest"
)

// bodiesOnDisk makes a store with one file of bodies, and returns that file.
func bodiesOnDisk(t *testing.T) (dir, file string) {
	dir = filepath.Join(t.TempDir(), "store")
	s := openStore(t, nil, dir)
	for i := range 5 {
		putBody(t, s, ulid.Make(), bodyOf(fmt.Sprint(i), 9000+i*10000))
	}
	require.NoError(t, s.Close())
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"+bodySuffix))
	require.NoError(t, err)
	require.Len(t, files, 1)
	return dir, files[0]
}

// damages are what can happen to a file of bodies.
var damages = map[string]func(t *testing.T, file string){
	"gone":      func(t *testing.T, file string) { require.NoError(t, os.Remove(file)) },
	"empty":     func(t *testing.T, file string) { require.NoError(t, os.Truncate(file, 0)) },
	"cut short": func(t *testing.T, file string) { require.NoError(t, os.Truncate(file, 20_000)) },
	"footer":    func(t *testing.T, file string) { flipFrom(t, file, -20, -10) },
	"magic":     func(t *testing.T, file string) { flipFrom(t, file, -1, 0) },
	"all of it": func(t *testing.T, file string) { flipFrom(t, file, -60_000, 0) },
	"grown": func(t *testing.T, file string) {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, append(b[:100], b...), 0o600))
	},
}

// flipFrom turns bits round in a part of a file, counted from its end.
func flipFrom(t *testing.T, file string, from, to int) {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	for i := max(0, len(b)+from); i < len(b)+to; i++ {
		b[i] ^= 0x55
	}
	require.NoError(t, os.WriteFile(file, b, 0o600))
}

// Pebble panics at such files when it opens them. The store says so in a
// sentence, when it is opened.
func TestDamagedBodyFileIsToldAtOpen(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			dir, file := bodiesOnDisk(t)
			damage(t, file)
			_, err := Open(dir, small(t, nil))
			require.ErrorContains(t, err, "store is damaged")
			require.ErrorContains(t, err, filepath.Base(file))
		})
	}
}

// Damage to the file while the store is open is told before Pebble opens the file: a
// process that hears Fatal ends itself, and so does this test's other one.
func TestDamagedBodyFileIsToldBeforePebblePanics(t *testing.T) {
	if name := os.Getenv("DAMAGE"); name != "" {
		readDamaged(t, damages[name])
		return
	}
	for _, name := range []string{"gone", "footer"} {
		t.Run(name, func(t *testing.T) {
			other := exec.Command(os.Args[0], "-test.run=^"+t.Name()[:strings.Index(t.Name(), "/")]+"$")
			other.Env = append(os.Environ(), "DAMAGE="+name)
			out, err := other.CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "join this node anew")
			require.Contains(t, string(out), bodySuffix)
			require.NotContains(t, string(out), "panic")
		})
	}
}

func readDamaged(t *testing.T, damage func(*testing.T, string)) {
	dir, file := bodiesOnDisk(t)
	o := small(t, nil)
	o.Fatal = func(err error) {
		fmt.Println(err)
		os.Exit(1)
	}
	s, err := Open(dir, o)
	require.NoError(t, err)
	damage(t, file)
	_, _, _ = s.Hash(context.Background())
}

// Damage inside of a body is found by its checksum when it is read.
func TestDamagedBodyIsFatalWhenRead(t *testing.T) {
	dir, file := bodiesOnDisk(t)
	flipFrom(t, file, -100_000, -99_000)
	var f disktest.Failures
	o := small(t, nil)
	o.Fatal = f.Fatal
	s, err := Open(dir, o)
	require.NoError(t, err)
	_, _, err = s.Hash(context.Background())
	require.ErrorContains(t, err, "damaged")
	require.NotEmpty(t, f.Get())
	_ = s.Close()
}
