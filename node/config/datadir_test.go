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

// A directory that can't be entered is not one that holds no node. Root enters
// everything, so this test runs itself as another user.
func TestDataDirThatCanNotBeEntered(t *testing.T) {
	if file := os.Getenv("DATADIR_CONFIG"); file != "" {
		_, err := Load(file)
		require.ErrorContains(t, err, "may not enter")
		require.ErrorContains(t, err, "chown -R")
		return
	}
	dir, err := os.MkdirTemp("", "datadir")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755))
	data := filepath.Join(dir, "data")
	require.NoError(t, os.Mkdir(data, 0))
	file := dataDirFile(t, dir, data)
	if os.Getuid() != 0 {
		t.Setenv("DATADIR_CONFIG", file)
		_, err := Load(file)
		require.ErrorContains(t, err, "may not enter")
		return
	}
	self := filepath.Join(dir, "self.test")
	b, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(self, b, 0o755))
	other := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	other.Dir = dir
	other.Env = []string{"DATADIR_CONFIG=" + file, "TMPDIR=" + os.TempDir(), "HOME=" + dir}
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := other.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.True(t, strings.Contains(string(out), "PASS"), "%s", out)
}
