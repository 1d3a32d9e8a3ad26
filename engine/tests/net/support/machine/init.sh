#!/bin/busybox sh
# The first and only program of the machine: it uses its network and says on the console what came of it.
#
# The kernel gives what it does not know of its command line to us as variables:
#   url      what to fetch by HTTP, with a name in it
#   receiver an address and a port that takes what was fetched, parted by a slash
export PATH=/bin
busybox mkdir -p /proc /sys /etc
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sys /sys

for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "FAILED insmod $module"
done

cat > /lease <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "${mtu:-1500}"
ip route add default via "$router"
for server in $dns; do
    echo "nameserver $server" >> /etc/resolv.conf
done
echo "LEASE $ip/$mask $router"
SCRIPT
chmod +x /lease

ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -f -t 20 -T 1 -s /lease || echo "FAILED udhcpc"
gateway=$(ip route | awk '/^default/ { print $3 }')

ping -c 3 -W 20 "$gateway" > /dev/null && echo "PINGED $gateway"
mkdir /served
wget -q -O /served/fetched "$url" && echo "FETCHED $(sha256sum < /served/fetched)"
nc "${receiver%/*}" "${receiver#*/}" < /served/fetched > /dev/null && echo "SENT"

httpd -p 80 -h /served && echo "SERVING"
# Until the test is done with us.
read -r _
poweroff -f
