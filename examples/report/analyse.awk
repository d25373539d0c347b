# Totals in whole cents; rows: order,date,region,product,quantity,price_cents.
BEGIN { FS = "," }
NR == 1 { next }
{
    cents = $5 * $6
    total += cents
    orders++
    if (!($3 in region)) names[++regions] = $3
    region[$3] += cents
    count[$3]++
    month[substr($2, 1, 7)] += cents
}
function money(cents) { return sprintf("%.0f.%02d", int(cents / 100), cents % 100) }
END {
    # By name, so that the table is the same on every machine.
    for (i = 2; i <= regions; i++) {
        name = names[i]
        for (j = i - 1; j >= 1 && names[j] > name; j--) names[j + 1] = names[j]
        names[j + 1] = name
    }
    for (i = 1; i <= regions; i++)
        rows = rows sprintf("| %s | %d | %s |\\n", names[i], count[names[i]], money(region[names[i]]))
    for (m in month)
        if (best == "" || month[m] > month[best] || (month[m] == month[best] && m < best)) best = m
    printf "{\"orders\": %d, \"revenue\": \"%s\", \"regions\": \"%s\", \"best_month\": \"%s\", \"best_month_revenue\": \"%s\"}\n", orders, money(total), rows, best, money(month[best])
}
