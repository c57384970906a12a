# A shell's own work: arithmetic, functions, patterns, strings.
count=$1 i=0 sum=0 text=
step() {
    case $1 in
    *7) sum=$((sum + $1 * 3)) ;;
    *[02468]) sum=$((sum + 1)) ;;
    *) sum=$((sum ^ $1)) ;;
    esac
}
while [ "$i" -lt "$count" ]; do
    step "$i"
    text=x${text#???}${i%?}
    [ ${#text} -lt 40 ] || text=${text%?????????}
    i=$((i + 1))
done
echo "$sum $text"
