package config

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func dataDirFile(t *testing.T, dir, data string) string {
	file := filepath.Join(dir, "relay.toml")
	require.NoError(t, os.WriteFile(file, []byte("[node]\nid = \"n1\"\nhostname = \"n1\"\ndata_dir = \""+data+"\"\n"+
		"[cluster]\nlisten = \"127.0.0.1:7170\"\n"), 0o644))
	return file
}

func TestParentOfDataDirMustBeThere(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dataDirFile(t, dir, filepath.Join(dir, "mnt", "relay")))
	require.ErrorContains(t, err, "there is no directory "+filepath.Join(dir, "mnt"))
	_, err = Load(dataDirFile(t, dir, filepath.Join(dir, "relay")))
	require.NoError(t, err)
}

// A data directory that this user may not enter, write to or read is told to be so, with
// the cure, and is none that holds no node. Root may do everything, so this test runs
// itself as another user.
func TestFilesOfAnotherUser(t *testing.T) {
	if dir := os.Getenv("FILES_OF_ANOTHER"); dir != "" {
		for name, words := range map[string][]string{
			"entered": {"may not enter " + dir + "/entered/data", "chown -R", dir + "/entered/data"},
			"written": {"may not write to " + dir + "/written/data", "chown -R", dir + "/written/data"},
			"read":    {"may not read " + dir + "/read/data/identity.json", "chown -R", dir + "/read/data"},
			"token":   {"line 8: admin.token_file: user ", " may not read the file " + dir + "/token/secret", "'chown "},
		} {
			_, err := Load(filepath.Join(dir, name, "relay.toml"))
			for _, word := range words {
				require.ErrorContains(t, err, word, name)
			}
		}
		return
	}
	dir, err := os.MkdirTemp("", "datadir")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, mode := range map[string]os.FileMode{"entered": 0, "written": 0o755, "read": 0o777, "token": 0o777} {
		data := filepath.Join(dir, name, "data")
		require.NoError(t, os.MkdirAll(data, 0o755))
		dataDirFile(t, filepath.Join(dir, name), data)
		require.NoError(t, os.Chmod(data, mode))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "read", "data", "identity.json"), nil, 0))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token", "secret"), nil, 0))
	f, err := os.OpenFile(filepath.Join(dir, "token", "relay.toml"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("[admin]\ntoken_file = \"" + dir + "/token/secret\"\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	asStranger(t, dir)
}

// asStranger runs the test once more in a process that owns nothing in dir.
func asStranger(t *testing.T, dir string) {
	self := filepath.Join(dir, "self.test")
	b, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(self, b, 0o755))
	other := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	other.Dir = dir
	other.Env = []string{"FILES_OF_ANOTHER=" + dir, "TMPDIR=" + os.TempDir(), "HOME=" + dir}
	if os.Getuid() == 0 {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	} else { // a directory of its own that may not be written to
		require.NoError(t, os.Chmod(filepath.Join(dir, "written", "data"), 0o555))
	}
	out, err := other.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.True(t, strings.Contains(string(out), "PASS"), "%s", out)
}
