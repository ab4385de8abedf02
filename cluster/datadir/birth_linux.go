package datadir

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// BirthOf names a file by the moment it was made or, where the file system does not
// keep that, by its inode. Empty: neither is known.
func BirthOf(path string) string {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME|unix.STATX_INO, &st) != nil {
		return ""
	}
	switch {
	case st.Mask&unix.STATX_BTIME != 0:
		return fmt.Sprintf("born %d.%09d", st.Btime.Sec, st.Btime.Nsec)
	case st.Mask&unix.STATX_INO != 0:
		return fmt.Sprintf("inode %d", st.Ino)
	}
	return ""
}
