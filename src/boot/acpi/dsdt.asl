/* The ACPI devices that every machine has: clock, serial port, firmware configuration, soft-off. Bridges and what sits on them come in tables of their own. */
DefinitionBlock ("", "DSDT", 2, "UMBRA ", "UMBRADSD", 1)
{
    /* SLP_TYP for PM1a and PM1b: ACPI_SLP_TYP_S5 in chipset/acpi_pm.h. There is no S1 to S4. */
    Name (\_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        Device (RTC)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 1, 2)
                IRQNoFlags () { 8 }
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501")) /* 16550A */
            Name (_UID, 1)
            Name (_STA, 0x0F)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 1, 8)
                IRQNoFlags () { 4 }
            })
        }

        Device (FWCF) /* chipset/fw_cfg.c */
        {
            Name (_HID, "QEMU0002")
            Name (_STA, 0x0B)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0510, 0x0510, 1, 0x0C)
            })
        }
    }
}
