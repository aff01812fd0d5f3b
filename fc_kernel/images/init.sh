#!/bin/busybox sh
# The initramfs: load the drivers, put a writable layer over the read-only root, hand over to the agent.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t tmpfs -o mode=0755 run /run
python=/usr/bin/python3
root=/dev/vda
read -r line </proc/cmdline
for word in $line; do
  case "$word" in
    fc.python=*) python=${word#fc.python=} ;;
    fc.root=*) root=${word#fc.root=} ;;
  esac
done
fail() {
  echo "initramfs: $*"
  $b sync
  echo b >/proc/sysrq-trigger
  $b sleep 5
}
while read -r module; do
  $b insmod "/modules/$module" || fail "cannot load $module"
done </modules/order
tries=0
while [ ! -b "$root" ]; do
  tries=$((tries + 1))
  [ "$tries" -gt 500 ] && fail "no root device $root after 10 s"
  $b usleep 20000
done
$b mount -t erofs -o ro "$root" /ro || fail "cannot mount $root"
$b mount -t tmpfs -o mode=0755,size=80% rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work root /newroot || fail "cannot make the overlay"
$b cp -r /fc /run/fc
for mount in dev proc sys run; do
  $b mkdir -p "/newroot/$mount"
  $b mount --move /$mount /newroot/$mount
done
[ -d /newroot/tmp ] || $b mkdir -m 1777 /newroot/tmp
[ -L "/newroot$python" ] || [ -x "/newroot$python" ] || fail "no $python in the root file system"
exec $b switch_root /newroot "$python" -S -B /run/fc/main.py
